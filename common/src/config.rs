//! `config.toml` of an appliance.
