"""Predictors of the supervised tasks that know no protein model; free of torch."""
