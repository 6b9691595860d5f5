"""Rewrite config.yaml with its comments, and the schema, from the typed study."""

from plmscale import configfile, study
from plmscale.files import atomic_write

with atomic_write(study.PROJECT / "rules/schemas/study.schema.json") as handle:
    handle.write(configfile.schema_text())
path = study.PROJECT / "config.yaml"
text = configfile.render(study.validate(study.read_yaml(path), str(path)).model_dump())
with atomic_write(path) as handle:
    handle.write(text)
