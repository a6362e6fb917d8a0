//! Scenario files, and what is planned from them.

use aspen_lab::plan::Plan;
use aspen_lab::scenario::{Scenario, ScenarioErrors};

/// Reads an input as a scenario, and plans it twice.
pub fn run(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let scenario = match Scenario::parse("s.yaml", text) {
        Ok(scenario) => scenario,
        Err(errors) => {
            check_places(&errors, text);
            return false;
        }
    };
    let mut seed = [0; 8];
    seed.copy_from_slice(&scenario.text_hash()[..8]);
    let seed = u64::from_le_bytes(seed);
    let plan = Plan::new(&scenario, seed);
    let again = Scenario::parse("s.yaml", text).map(|scenario| Plan::new(&scenario, seed));
    let json = plan.to_json();
    assert_eq!(again.map(|plan| plan.to_json()).ok(), Some(json.clone()), "the second plan is another one");
    assert_eq!(
        serde_json::from_str::<Plan>(&json).ok(),
        Some(plan),
        "what is written is not what was planned"
    );
    true
}

/// Every mistake is somewhere in the file.
fn check_places(errors: &ScenarioErrors, text: &str) {
    let ScenarioErrors::Mistakes(mistakes) = errors else { return };
    assert!(!mistakes.list.is_empty(), "a file is refused without a mistake");
    // A line ends with a newline, a carriage return or both (YAML 1.2, 5.4), and 1.1 has three more. What is missing at the end of a
    // file without one is looked for in the next line.
    let is_break = |c: char| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let lines_max = text.matches(is_break).count() + 2;
    for at in &mistakes.list {
        assert!((1..=lines_max).contains(&at.line), "line {} of {lines_max}: {}", at.line, at.mistake);
        assert!(at.column >= 1 && !at.mistake.to_string().is_empty());
    }
}
