"""A folder to install plmscale from without a network (docs/environments.md): made, checked."""
