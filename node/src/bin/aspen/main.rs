//! `aspen`: the client of a cluster. Words in, exit code out.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that fails says where"))]

mod access;
mod backup;
mod bench;
mod cluster;
mod kv;
mod lease;
mod session;
mod tui;

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use aspen_node::causes::causes;
use clap::{CommandFactory, Parser, Subcommand};

use self::session::{Failure, Session};

/// The key is absent, or what it holds is not what was expected; or a backup is damaged.
const EXIT_NOT_SO: u8 = 1;
/// Whether something was written is not known.
const EXIT_UNKNOWN: u8 = 2;
/// Nobody could be asked, or the cluster refuses.
const EXIT_REFUSED: u8 = 3;
/// The command line is wrong (`EX_USAGE`, sysexits.h).
const EXIT_USAGE: u8 = 64;

const CODES: &str = "Exit codes: 0 done; 1 the key is absent, or holds something else than was expected, or a backup is damaged; 2 whether something was \
written is not known; 3 refused, or nobody answers; 64 the command line is wrong.";

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "aspen", version = aspen_node::VERSION, about = "The client of an Aspen cluster", after_help = CODES)]
struct Cli {
    #[command(flatten)]
    access: access::AccessArgs,
    /// Print the node's answer as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read and write keys
    #[command(subcommand, after_help = CODES)]
    Kv(kv::KvCommand),
    /// Have keys end by themselves
    #[command(subcommand, after_help = CODES)]
    Lease(lease::LeaseCommand),
    /// Look at the cluster and change it
    #[command(subcommand, after_help = CODES)]
    Cluster(cluster::ClusterCommand),
    /// Save the whole state to a file while writes go on, look at such a file, and make a new cluster of it
    #[command(subcommand, after_help = CODES)]
    Backup(backup::BackupCommand),
    /// Watch the cluster on the terminal, and its keys; ? there says what can be done
    Tui,
    /// Put load on a cluster and measure it
    Bench(bench::BenchArgs),
    /// Print what makes a shell complete these commands
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is no error of ours.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match run(&cli) {
        Ok(mut bytes) => {
            let mut out = std::io::stdout();
            // A value is printed as it is; on a terminal the prompt begins a line of its own.
            if out.is_terminal() && bytes.last().is_some_and(|last| *last != b'\n') {
                bytes.push(b'\n');
            }
            match out.write_all(&bytes).and_then(|()| out.flush()) {
                // Whoever reads has enough.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => tell(&Failure::Output(error)),
                Ok(()) | Err(_) => ExitCode::SUCCESS,
            }
        }
        Err(failure) => {
            if cli.json {
                // A closed pipe is no error of ours.
                let _ = writeln!(std::io::stdout(), "{}", failure.json());
            }
            tell(&failure)
        }
    }
}

fn tell(failure: &Failure) -> ExitCode {
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "aspen: {failure}");
    for cause in causes(failure) {
        let _ = writeln!(out, "  because: {cause}");
    }
    ExitCode::from(failure.exit_code())
}

/// Does what was typed; what to print.
fn run(cli: &Cli) -> Result<Vec<u8>, Failure> {
    let text = match &cli.command {
        Command::Tui => return tui::run(cli.access.access()?),
        Command::Bench(args) => match args.load() {
            Some(work) => bench::run(args, work, &cli.access.access()?, cli.json)?,
            None => return on_session(cli, async |session| bench::clean(session).await),
        },
        Command::Kv(command) => return on_session(cli, async |session| kv::run(command, session).await),
        Command::Lease(command) => {
            return on_session(cli, async |session| lease::run(command, session).await);
        }
        Command::Cluster(command) => {
            return on_session(cli, async |session| cluster::run(command, session).await);
        }
        Command::Backup(backup::BackupCommand::Save(args)) => {
            return on_session(cli, async |session| backup::save(args, session).await);
        }
        Command::Backup(backup::BackupCommand::Inspect { file }) => backup::inspect(file, cli.json)?,
        Command::Backup(backup::BackupCommand::Restore(args)) => backup::restore(args, cli.json)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "aspen", &mut script);
            return Ok(script);
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(Failure::Io)?;
            return Ok(page);
        }
    };
    Ok(text.into_bytes())
}

fn on_session(
    cli: &Cli,
    work: impl AsyncFnOnce(&mut Session) -> Result<Vec<u8>, Failure>,
) -> Result<Vec<u8>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Io)?;
    let mut session = Session::new(cli.access.access()?.client(), cli.json);
    runtime.block_on(async {
        let done = work(&mut session).await;
        session.client.close().await;
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
