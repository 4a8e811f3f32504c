//! Which config is meant.

use std::path::PathBuf;

/// What a config looks like at its shortest.
const STARTER: &str = r#"[store]
path = "./data"
[[repos]]
id = "my-folder"
folder = { path = "~/my-folder" }"#;

/// No config was named, and there is none where one is looked for.
#[derive(Debug, thiserror::Error)]
#[error("no config found. Searched:\n{}\n\nTo begin, write this to ark.toml:\n\n{STARTER}", self.searched.join("\n"))]
pub struct NoConfig {
    /// The places, a line each.
    searched: Vec<String>,
}

/// The config that was named, or else the first that is there of `$ARK_CONFIG`, `./ark.toml` and
/// `$XDG_CONFIG_HOME/ark/ark.toml`. One that was named, also by `$ARK_CONFIG`, is taken without
/// looking: that it is missing is an error of its own.
///
/// # Errors
/// [`NoConfig`] where there is none.
pub fn config_file(named: Option<PathBuf>) -> Result<PathBuf, NoConfig> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(file) = named.or_else(|| variable("ARK_CONFIG").map(PathBuf::from)) {
        return Ok(file);
    }
    let mut searched =
        vec!["  --config FILE: not given".to_owned(), "  $ARK_CONFIG: not set".to_owned()];
    let config_home = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".config")));
    let places =
        [Some(PathBuf::from("./ark.toml")), config_home.map(|home| home.join("ark/ark.toml"))];
    for place in places.into_iter().flatten() {
        // One that cannot be looked at is taken too: reading it then says why.
        match place.try_exists() {
            Ok(false) => searched.push(format!("  {}: not there", place.display())),
            Ok(true) | Err(_) => return Ok(place),
        }
    }
    Err(NoConfig { searched })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Surroundings};

    #[test]
    fn the_starter_has_five_lines_and_is_a_config() {
        assert_eq!(STARTER.lines().count(), 5);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("ark.toml");
        std::fs::write(&file, STARTER).expect("the config");
        let home = Some(directory.path().to_owned());
        config::load(&file, &Surroundings { home, device_at: None }).expect("it is valid");
    }
}
