//! junit.xml: every check is a test case, so that CI shows it.

use std::io;

use quick_junit::{NonSuccessKind, Report as JUnit, TestCase, TestCaseStatus, TestSuite};

use super::Report;
use crate::check::Status;

/// The report as XML.
pub(super) fn junit(report: &Report) -> io::Result<String> {
    let mut suite = TestSuite::new(format!("{} seed {}", report.scenario, report.seed));
    suite.add_property(("replay", report.replay.as_str()));
    suite.add_property(("driver", report.driver.as_str()));
    suite.add_property(("fabric", report.fabric.to_string().as_str()));
    if let Some(pace) = report.slowdown {
        suite.add_property(("slowdown", pace.to_string().as_str()));
    }
    for verdict in &report.verdicts {
        let status = match verdict.status {
            Status::Pass => TestCaseStatus::success(),
            Status::Fail => failed(NonSuccessKind::Failure, &verdict.summary),
            Status::Unknown | Status::Invalid => failed(NonSuccessKind::Error, &verdict.summary),
        };
        let mut case = TestCase::new(verdict.check.clone(), status);
        case.set_classname(report.scenario.clone());
        suite.add_test_case(case);
    }
    if let Some(reason) = &report.aborted {
        suite.add_test_case(TestCase::new("run", failed(NonSuccessKind::Error, reason)));
    }
    let mut junit = JUnit::new("lab");
    junit.add_test_suite(suite);
    junit.to_string().map_err(io::Error::other)
}

fn failed(kind: NonSuccessKind, message: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(message.to_owned());
    status
}
