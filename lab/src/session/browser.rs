//! `--open`: shows report.html. The verdict is told by then, so nothing here changes it.

use std::ffi::OsString;
use std::path::Path;

use crate::limits::BROWSER_START_MAX;
use crate::program::Program;

/// The variable by which a user names a browser, or several with colons between them: the first that works is taken.
const VARIABLE: &str = "BROWSER";

/// What finds the browser of a desktop.
const FINDER: &str = "xdg-open";

/// Opens a page; if that does not work, a line for the user that says where it is.
pub(super) fn open(page: &Path) -> Result<(), String> {
    open_with(&browsers(std::env::var_os(VARIABLE)), page)
}

/// The programs to try, in order.
fn browsers(variable: Option<OsString>) -> Vec<String> {
    let named = variable.map(|variable| variable.to_string_lossy().into_owned()).unwrap_or_default();
    let named = named.split(':').filter(|name| !name.is_empty()).map(str::to_owned);
    named.chain([FINDER.to_owned()]).collect()
}

fn open_with(browsers: &[String], page: &Path) -> Result<(), String> {
    let is_open = |browser: &String| {
        Program::new(browser).arg(page).inherit_environment().show(BROWSER_START_MAX).is_ok()
    };
    if browsers.iter().any(is_open) {
        return Ok(());
    }
    Err(format!("cannot open a browser ({} failed): the report is {}", browsers.join(", "), page.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_of_the_user_are_tried_before_that_of_the_desktop() {
        assert_eq!(browsers(None), ["xdg-open"]);
        assert_eq!(browsers(Some("w3m::/opt/my browser".into())), ["w3m", "/opt/my browser", "xdg-open"]);
    }

    #[test]
    fn the_first_browser_that_works_gets_the_page() {
        let home = tempfile::tempdir().unwrap();
        let page = home.path().join("report.html");
        // A directory appears where the page was to be: this browser was given the path.
        let browsers = ["/does/not/exist", "false", "mkdir", "rmdir"].map(str::to_owned);
        assert_eq!(open_with(&browsers, &page), Ok(()));
        assert!(page.is_dir(), "and those after it are not started");
    }

    #[test]
    fn without_a_browser_the_user_is_told_where_the_page_is() {
        let browsers = ["/does/not/exist".to_owned(), "false".to_owned()];
        let want = "cannot open a browser (/does/not/exist, false failed): the report is /r/report.html";
        assert_eq!(open_with(&browsers, Path::new("/r/report.html")), Err(want.to_owned()));
    }
}
