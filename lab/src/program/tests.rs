//! Real programs: a shell, `sleep`, `env`.

use super::*;
use crate::limits::TAIL_BYTES_MAX;

struct Bench {
    directory: tempfile::TempDir,
    log: ProgramLog,
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let log = ProgramLog::open(&directory.path().join("programs.log")).unwrap();
    Bench { directory, log }
}

fn shell(script: &str) -> Program {
    Program::new("/bin/sh").arg("-c").arg(script)
}

fn short(script: &str, limit: Duration) -> Result<ShortOutput, ProgramError> {
    shell(script).run_short(limit, &bench().log)
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn helper_reads_what_is_for_it_and_its_output_is_kept_up_to_a_bound() {
    let with = |script: &str, input: &[u8], bytes_max| {
        shell(script).run_with_input(input, bytes_max, LONG, &bench().log).unwrap().stdout
    };
    assert_eq!(with("cat; echo end", b"one\ntwo\n", 100), "one\ntwo\nend\n");
    // More than a pipe holds, both ways.
    let large = vec![b'x'; 1 << 20];
    assert_eq!(with("cat", &large, 2 << 20).len(), large.len());
    assert_eq!(with("cat >/dev/null; echo 12345; echo 678", &large, 6), "678\n");
    // It may stop reading when it has read enough.
    assert_eq!(with("head -c 3", &large, 100), "xxx");
}

#[test]
fn program_that_shows_something_may_go_on_and_says_if_it_cannot() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("shown");
    shell(&format!("echo it > {}", file.display())).show(LONG).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "it\n");
    // One that goes on is not waited for.
    shell("sleep 3").show(Duration::from_millis(50)).unwrap();
    let error = shell("exit 3").show(LONG).unwrap_err();
    assert!(matches!(error, ProgramError::Failed { exit: Exit::Code(3), .. }), "{error}");
    let error = Program::new("/does/not/exist").show(LONG).unwrap_err();
    assert_eq!(error.to_string(), "cannot start /does/not/exist");
}

#[test]
fn short_program_returns_what_it_wrote() {
    let output = short("echo out; echo err >&2", LONG).unwrap();
    assert_eq!(output, ShortOutput { stdout: "out\n".into(), stderr: "err\n".into() });
}

#[test]
fn failed_program_names_arguments_exit_and_error_output() {
    let error = short("echo \"no such thing\" >&2; exit 3", LONG).unwrap_err();
    let want = "/bin/sh -c 'echo \"no such thing\" >&2; exit 3' ended with exit code 3; \
                its error output ends: \"no such thing\\n\"";
    assert_eq!(error.to_string(), want);
}

#[test]
fn slow_program_is_killed_and_its_error_output_kept() {
    let start = Instant::now();
    let error = short("echo waiting >&2; exec sleep 60", Duration::from_millis(300)).unwrap_err();
    assert!(start.elapsed() < LONG);
    assert!(
        error.to_string().ends_with("did not end within 300ms; its error output ends: \"waiting\\n\""),
        "{error}"
    );
}

#[test]
fn missing_program_is_named() {
    let error = Program::new("/nowhere/node").run_short(LONG, &bench().log).unwrap_err();
    assert_eq!(error.to_string(), "cannot start /nowhere/node");
}

#[test]
fn environment_is_only_what_is_given() {
    let output = Program::new("/usr/bin/env").env("ONLY", "this").run_short(LONG, &bench().log).unwrap();
    assert_eq!(output.stdout, "ONLY=this\n");
}

#[test]
fn long_output_keeps_its_end_from_a_line_start() {
    let output = short("i=0; while [ $i -lt 9000 ]; do echo line $i; i=$((i+1)); done", LONG).unwrap();
    assert!(output.stdout.len() <= TAIL_BYTES_MAX);
    assert!(output.stdout.starts_with("line "));
    assert!(output.stdout.ends_with("line 8999\n"));
}

#[test]
fn started_program_is_logged_and_writes_to_its_console() {
    let bench = bench();
    let console = bench.directory.path().join("console.log");
    let running = shell("echo first; echo second >&2; exit 4").start(None, &console, &bench.log).unwrap();
    assert_eq!(running.wait(LONG).unwrap(), Exit::Code(4));
    assert_eq!(running.exited(), Some(Exit::Code(4)));
    assert_eq!(running.console_tail(), "first\nsecond\n");
    let log = std::fs::read_to_string(bench.directory.path().join("programs.log")).unwrap();
    assert!(log.contains(&format!(" {} /bin/sh -c ", running.pid())), "{log}");
}

#[test]
fn killed_program_reports_signal_nine() {
    let bench = bench();
    let console = bench.directory.path().join("console.log");
    let mut running = Program::new("/bin/sleep").arg("60").start(None, &console, &bench.log).unwrap();
    let pid = running.pid();
    assert_eq!(running.exited(), None);
    assert_eq!(running.kill().unwrap(), Exit::Signal(9));
    assert_eq!(Exit::Signal(9).to_string(), "signal 9 (SIGKILL)");
    assert_eq!(running.kill().unwrap(), Exit::Signal(9));
    assert_eq!(ProcessStat::read(pid), None);
}

#[test]
fn dropped_program_is_gone() {
    let bench = bench();
    let console = bench.directory.path().join("console.log");
    let running = Program::new("/bin/sleep").arg("60").start(None, &console, &bench.log).unwrap();
    let pid = running.pid();
    drop(running);
    assert_eq!(ProcessStat::read(pid), None);
}

#[test]
fn signal_that_is_ignored_is_seen_in_the_status_of_a_process() {
    let status = |mask: &str| format!("Name:\tlab\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t0\n");
    assert!(ignores(&status("0000000000000001"), Signal::SIGHUP));
    assert!(!ignores(&status("0000000000001000"), Signal::SIGHUP));
    assert!(ignores(&status("0000000000001000"), Signal::SIGPIPE));
    assert!(!ignores("", Signal::SIGHUP));
}
