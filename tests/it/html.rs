//! report.html in a real browser: it fetches nothing, complains of nothing, and fits a phone.

use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aspen_lab::check::linearizable::{self, Budget};
use aspen_lab::check::overall;
use aspen_lab::fabric::FabricKind;
use aspen_lab::history::read_history;
use aspen_lab::plan::Plan;
use aspen_lab::report::{Report, Sources, exit_code, html};
use aspen_lab::scenario::Scenario;
use serde_json::json;

use crate::browser::{Browser, Visit};
use crate::lab::{bench, run, write_scenario};

/// A partition, short enough for a test.
const SHORT: &str = "nodes: { count: 3 }\nduration: 6s\nfaults:\n  \
    - { at: 1s, for: 2s, partition: [[leader], [rest]] }\nchecks: [linearizable, durable, raft, { minority_refuses: true }]\n";

/// The page of a failure: a history of the repository, judged by the real check.
fn failing_page(home: &Path) -> PathBuf {
    let history = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/it/histories/lost-write.jsonl");
    let history = read_history(BufReader::new(File::open(history).unwrap())).unwrap();
    let text = format!("name: lost\nabout: A seat that is lost.\n{SHORT}");
    let scenario = Scenario::parse("lost.yaml", &text).unwrap();
    let plan = Plan::new(&scenario, 1);
    let verdicts = vec![linearizable::check(&history, &Budget::default()).verdict()];
    let status = overall(&verdicts);
    let report = Report {
        replay: "cargo lab run lost.yaml --seed 1".to_owned(),
        scenario: plan.scenario.clone(),
        about: scenario.about().to_owned(),
        seed: plan.seed,
        driver: "process".to_owned(),
        fabric: FabricKind::default(),
        slowdown: None,
        lab_version: "0.1.0".to_owned(),
        node_version: "0.1.0".to_owned(),
        kernel: "6.18".to_owned(),
        status,
        exit_code: exit_code(status),
        verdicts,
        record: None,
        aborted: None,
    };
    let sources = Sources {
        report: &report,
        plan: &plan,
        history: &history,
        observations: &[],
        events: &[],
        scenario: &text,
    };
    let path = home.join("failing.html");
    fs::write(&path, html::page(&sources)).unwrap();
    path
}

/// What is wrong with a visit to a page that is to be complete in itself.
fn complaints(visit: Visit, page: &Path) -> Vec<String> {
    let own = format!("file://{}", page.display());
    let foreign = visit.requests.into_iter().filter(|url| *url != own).map(|url| format!("asked for {url}"));
    visit.complaints.into_iter().chain(foreign).collect()
}

/// What reaches beyond the window without a box that scrolls it, and what of a document's order is broken.
const FAULTS_OF_A_DOCUMENT: &str = r"(() => {
  const faults = [], root = document.documentElement, seen = new Set();
  if (root.scrollWidth > root.clientWidth) faults.push(`the page is ${root.scrollWidth} wide of ${root.clientWidth}`);
  for (const one of document.querySelectorAll('body *')) {
    const right = one.getBoundingClientRect().right;
    if (right > root.clientWidth + 1 && !one.closest('.scroll, pre, .patterns')) faults.push(`${one.outerHTML.slice(0, 80)} ends at ${right}`);
    if (one.id && seen.has(one.id)) faults.push(`two elements are called ${one.id}`);
    seen.add(one.id);
  }
  let level = 0;
  for (const one of document.querySelectorAll('h1, h2, h3, h4')) {
    const next = Number(one.tagName[1]);
    if (next > level + 1) faults.push(`${one.textContent} is h${next} after h${level}`);
    level = next;
  }
  for (const one of document.querySelectorAll('svg:not([aria-hidden])'))
    if (one.getAttribute('role') !== 'img' || !one.getAttribute('aria-label')) faults.push('a drawing has no name');
  for (const one of document.querySelectorAll('table'))
    if (!one.caption || !one.tHead.querySelector('th[scope=col]')) faults.push('a table has no head');
  if (!root.lang || document.compatMode !== 'CSS1Compat') faults.push('no language, or not in standards mode');
  return faults;
})()";

/// Opens a page at both widths and looks for all that can be wrong.
#[track_caller]
fn check_page(browser: &mut Browser, page: &Path, name: &str) {
    for width in [1200, 360] {
        browser.emulate("screen", "light", "none");
        let visit = browser.visit(page, width);
        assert_eq!(complaints(visit, page), Vec::<String>::new(), "{name} at {width}");
        browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)");
        assert_eq!(browser.evaluate(FAULTS_OF_A_DOCUMENT), json!([]), "{name} at {width}");
        let looks = [
            ("light", "screen", "light", "none"),
            ("dark", "screen", "dark", "none"),
            ("gray", "screen", "light", "achromatopsia"),
            ("print", "print", "light", "none"),
        ];
        let pictures = looks.map(|(look, medium, scheme, deficiency)| {
            browser.emulate(medium, scheme, deficiency);
            let picture = page.with_file_name(format!("{name}-{width}-{look}.png"));
            browser.screenshot(&picture)
        });
        assert_ne!(pictures[0], pictures[1], "there is a dark scheme");
    }
}

#[test]
fn report_of_a_failure_fetches_nothing_complains_of_nothing_and_fits_a_phone() {
    let home = tempfile::tempdir().unwrap();
    let Some(mut browser) = Browser::start(home.path()) else { return };
    let page = failing_page(home.path());
    check_page(&mut browser, &page, "failing");
    // What one reads is what went wrong: not only in the source, but on the screen.
    let text = browser.evaluate("document.querySelector('#wrong').innerText");
    let text = text.as_str().unwrap();
    for want in ["FAIL linearizable", "ann wrote ann through n1", "cleo → n2", "write ann -> ok"] {
        assert!(text.contains(want), "{want:?} in {text}");
    }
    keep(home.path());
}

#[test]
fn report_of_a_run_fetches_nothing_complains_of_nothing_and_fits_a_phone() {
    let Some((_turn, home)) = bench() else { return };
    let file = write_scenario(home.path(), "short", SHORT);
    let browser = home.path().join("browser");
    fs::write(&browser, "#!/bin/sh\necho \"$1\" > \"$0.opened\"\n").unwrap();
    fs::set_permissions(&browser, fs::Permissions::from_mode(0o755)).unwrap();
    let environment = [("BROWSER", browser.to_str().unwrap())];
    let run = run(home.path(), "run", &[&file, "--seed", "1", "--open"], &environment);
    assert_eq!(run.code, Some(0), "{}", run.output());
    let page = run.directory.join("report.html");
    assert!(run.stdout.ends_with(&format!("report: {}\n", page.display())), "{}", run.output());
    let opened = fs::read_to_string(home.path().join("browser.opened")).unwrap();
    assert_eq!(opened, format!("{}\n", page.display()));
    let text = fs::read_to_string(&page).unwrap();
    let first = format!("<!-- replay: cargo lab run {file} --seed 1 --driver process -->");
    assert_eq!(text.lines().next(), Some(first.as_str()));
    assert!(text.len() < 300_000, "{} bytes", text.len());
    let Some(mut browser) = Browser::start(home.path()) else { return };
    check_page(&mut browser, &page, "passing");
    // Three lanes, the partition behind them, and leaders of two terms.
    assert_eq!(browser.evaluate("document.querySelectorAll('#timeline .chart').length"), json!(4));
    assert_eq!(
        browser.evaluate("document.querySelector('#timeline .band text').textContent.slice(0, 2)"),
        json!("F1")
    );
    assert!(browser.evaluate("document.querySelectorAll('.span.leader').length").as_u64() >= Some(2));
    keep(&run.directory);
}

/// A check that cannot fail is none: each of these pages does one thing that a report must not.
#[test]
fn pages_that_fetch_throw_or_are_too_wide_are_noticed() {
    let home = tempfile::tempdir().unwrap();
    let Some(mut browser) = Browser::start(home.path()) else { return };
    let page = home.path().join("bad.html");
    let mut said = |body: &str| {
        let head = "<!DOCTYPE html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>";
        fs::write(&page, format!("{head}{body}")).unwrap();
        let visit = browser.visit(&page, 360);
        let faults = browser.evaluate(FAULTS_OF_A_DOCUMENT);
        (complaints(visit, &page), serde_json::from_value::<Vec<String>>(faults).unwrap())
    };
    assert_eq!(said("<p>good"), (vec![], vec![]));
    let (complaints, _) = said("<img src='http://127.0.0.1:9/a.png'>");
    assert!(complaints.contains(&"asked for http://127.0.0.1:9/a.png".to_owned()), "{complaints:?}");
    let (complaints, _) = said("<style>p { background: url(other.png) }</style><p>x");
    assert!(complaints.iter().any(|one| one.ends_with("/other.png")), "{complaints:?}");
    let (complaints, _) = said("<script>throw new Error('thrown')</script>");
    assert!(complaints.iter().any(|one| one.contains("thrown")), "{complaints:?}");
    let (complaints, _) = said("<script>console.log('told')</script>");
    assert!(complaints.iter().any(|one| one.contains("told")), "{complaints:?}");
    let policy = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">";
    let (complaints, _) = said(&format!("{policy}<script>1</script>"));
    assert!(complaints.iter().any(|one| one.contains("Content Security Policy")), "{complaints:?}");
    let (_, faults) =
        said("<h1>a</h1><h3>b</h3><p style='width: 400px'>x<svg></svg><table><tr><td>1</table>");
    assert_eq!(faults.len(), 5, "{faults:?}");
}

/// Keeps the pictures for those who want to look at them.
fn keep(folder: &Path) {
    let Some(destination) = std::env::var_os("ASPEN_PICTURES").map(PathBuf::from) else { return };
    fs::create_dir_all(&destination).unwrap();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "png") {
            fs::copy(entry.path(), destination.join(entry.file_name())).unwrap();
        }
    }
}
