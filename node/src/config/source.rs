//! Where settings come from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use super::ConfigError;

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// A variable, `ASPEN_` and the name of the setting.
    Environment,
    /// The file of `--config`.
    File(PathBuf),
    /// Nobody has said anything.
    Default,
}

/// A setting with its source, as it is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its key in the file.
    pub key: &'static str,
    /// Its value, in TOML; `None` where it has none.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: Source,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, source } = self;
        let text = match value {
            Some(value) => format!("{key} = {value}"),
            // No value of TOML says that.
            None if *source == Source::Environment => format!("# {key} = (hidden)"),
            None => format!("# {key} ="),
        };
        write!(f, "{text:<40} # ")?;
        match source {
            Source::Default if value.is_none() => write!(f, "not set"),
            Source::Flag => write!(f, "a flag"),
            Source::Environment => write!(f, "ASPEN_{}", key.to_uppercase()),
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Default => write!(f, "default"),
        }
    }
}

/// Notes where settings come from.
pub(super) struct Sources {
    pub(super) from_environment: BTreeSet<String>,
    pub(super) file: Option<PathBuf>,
    pub(super) found: BTreeMap<&'static str, Source>,
}

impl Sources {
    /// The error of a setting that somebody has not typed, with its place.
    pub(super) fn explain(&self, error: ConfigError) -> ConfigError {
        let place = match error.key().and_then(|key| Some((key, self.found.get(key)?))) {
            Some((key, Source::Environment)) => format!("ASPEN_{}", key.to_uppercase()),
            Some((_, Source::File(path))) => path.display().to_string(),
            Some((_, Source::Flag | Source::Default)) | None => return error,
        };
        ConfigError::Said { error: Box::new(error), place }
    }

    /// What the command line or the environment says, or else the file.
    pub(super) fn pick<T>(&mut self, key: &'static str, typed: Option<T>, file: Option<T>) -> Option<T> {
        let source = match (&typed, &file, &self.file) {
            (Some(_), ..) if self.from_environment.contains(key) => Source::Environment,
            (Some(_), ..) => Source::Flag,
            (None, Some(_), Some(path)) => Source::File(path.clone()),
            _ => Source::Default,
        };
        self.found.insert(key, source);
        typed.or(file)
    }
}
