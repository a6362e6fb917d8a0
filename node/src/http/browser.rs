//! Pages of other sites in a browser of this host: where no token is needed, they must not ask in its user's place.
//!
//! A browser lets any page send simple requests anywhere, and says in a header where the page is from. One whose name was made to
//! lead here (DNS rebinding) is not of another site to it, but has that name in `Host`.

use axum::http::{HeaderMap, HeaderValue, header};

/// Marks a request that came over this host's own loopback interface.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local;

/// Why a request may be a page's in place of its reader's, if it may.
pub(super) fn led_astray(headers: &HeaderMap, local: Option<Local>) -> Option<&'static str> {
    let text = |name: &str| headers.get(name).map(HeaderValue::to_str).and_then(Result::ok);
    let host = text("host");
    let is_of_another_site =
        text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let is_of_another_origin = headers.contains_key(header::ORIGIN)
        && text("origin").and_then(|origin| origin.split_once("://")).map(|(_, host)| host) != host;
    if is_of_another_site || is_of_another_origin {
        return Some(
            "a page of another site asks this, and without a token nobody can tell whether its reader wants it",
        );
    }
    let is_renamed = local.is_some() && host.is_some_and(|host| !is_of_this_host(host));
    is_renamed.then_some(
        "Host names none of this host's addresses, as where a page was led here: ask at an address or at localhost, or have the node want a token",
    )
}

/// Whether whoever says `Host` means this host by itself, and by no name of the network's.
fn is_of_this_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => return rest.contains(']'),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let is_local =
        name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
    is_local || name.parse::<std::net::Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(headers: &[(&'static str, &'static str)], local: Option<Local>, is_fine: bool) {
        let headers = headers.iter().map(|(name, value)| {
            (name.parse::<axum::http::HeaderName>().unwrap(), HeaderValue::from_static(value))
        });
        let headers = headers.collect();
        assert_eq!(led_astray(&headers, local).is_none(), is_fine, "{headers:?}");
    }

    #[test]
    fn pages_of_others_are_told_from_programs_and_own_pages() {
        let here = Some(Local);
        check(&[], here, true);
        check(&[("host", "127.0.0.1:8001")], here, true);
        check(&[("host", "[::1]:8001")], here, true);
        check(&[("host", "LocalHost")], here, true);
        check(&[("host", "evil.example:8001")], here, false);
        // Elsewhere a name is how a node is reached.
        check(&[("host", "n1.example:8001")], None, true);
        check(&[("host", "127.0.0.1:8001"), ("origin", "http://127.0.0.1:8001")], here, true);
        check(&[("host", "127.0.0.1:8001"), ("origin", "http://127.0.0.1:9")], here, false);
        check(&[("host", "127.0.0.1:8001"), ("origin", "null")], here, false);
        check(&[("host", "n1.example:8001"), ("origin", "https://evil.example")], None, false);
        check(&[("host", "localhost:8001"), ("sec-fetch-site", "cross-site")], here, false);
        check(&[("host", "localhost:8001"), ("sec-fetch-site", "same-site")], here, false);
        // Typed by the user.
        check(&[("host", "localhost:8001"), ("sec-fetch-site", "none")], here, true);
    }
}
