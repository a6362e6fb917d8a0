//! A node's settings, from a file and from variables.

use std::error::Error;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use aspen_node::config::{Cli, Config, ConfigError, RunArgs, Setting};
use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches};

/// What parts the file from the variables.
const BORDER: &str = "\n%%\n";

/// Reads an input as a file and, behind a line `%%`, variables, one a line.
pub fn run(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let (file, variables) = text.split_once(BORDER).unwrap_or((&text, ""));
    let Some(args) = args(variables) else { return false };
    let Some(settings) = load(file.as_bytes(), args) else { return false };
    // What is printed is what a file would have to say.
    let printed: Vec<String> = settings.iter().map(Setting::to_string).collect();
    let printed = printed.join("\n");
    let again = load(printed.as_bytes(), RunArgs::default()).unwrap_or_default();
    let values = |settings: Vec<Setting>| -> Vec<Option<String>> {
        settings.into_iter().map(|setting| setting.value).collect()
    };
    assert_eq!(values(again), values(settings), "what is printed is not what was loaded:\n{printed}");
    true
}

/// The settings of variables, as from the command line, which reads them in the same way.
fn args(variables: &str) -> Option<RunArgs> {
    if variables.is_empty() {
        return Some(RunArgs::default());
    }
    let command = Cli::command();
    let mut args = RunArgs::default();
    let mut words = vec!["aspen-node".to_owned()];
    for line in variables.lines().filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once('=')?;
        let argument =
            command.get_arguments().find(|argument| argument.get_env().is_some_and(|env| env == name))?;
        words.push(format!("--{}={value}", argument.get_long()?));
        args.from_environment.insert(argument.get_id().to_string());
    }
    let from_environment = args.from_environment;
    // The variables of whoever runs this do not count.
    let command = command.mut_args(|argument| argument.env(Resettable::Reset));
    let matches = command.try_get_matches_from(&words).and_then(|matches| Cli::from_arg_matches(&matches));
    match matches {
        Ok(cli) => Some(RunArgs { from_environment, ..cli.run }),
        Err(error) => {
            let text = error.to_string();
            let is_named =
                words.iter().skip(1).any(|word| text.contains(word.split('=').next().unwrap_or(word)));
            assert!(is_named, "no setting is named: {text}");
            None
        }
    }
}

/// Loads settings, with a file that nobody else sees.
fn load(text: &[u8], mut args: RunArgs) -> Option<Vec<Setting>> {
    let mut file = tempfile::tempfile().expect("a temporary file can be made");
    file.write_all(text).and_then(|()| file.rewind()).expect("a temporary file can be written");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    args.config = Some(path.clone());
    match Config::load_with_sources(args) {
        Ok((_, settings)) => Some(settings),
        Err(error) => {
            let text = error.to_string();
            let is_named = match &error {
                ConfigError::Read { .. } => {
                    text.contains(&path.display().to_string()) && error.source().is_some()
                }
                ConfigError::Parse { .. } | ConfigError::SecretInFile { .. } => {
                    text.contains(&path.display().to_string())
                }
                _ => Cli::command().get_arguments().any(|argument| {
                    text.contains(argument.get_id().as_str())
                        || argument.get_long().is_some_and(|long| text.contains(long))
                }),
            };
            assert!(is_named, "no setting is named: {text}");
            None
        }
    }
}
