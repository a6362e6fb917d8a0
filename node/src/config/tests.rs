//! Settings as they are typed, and what comes of them.

use super::*;
use crate::network::lookups::Relays;
use crate::types::EndpointKey;

fn args(words: &[&str]) -> RunArgs {
    Cli::parse_from([&["aspen-node"], words].concat()).run
}

#[track_caller]
fn check(words: &[&str], want: &str) {
    let error = Config::load(args(words)).unwrap_err().to_string();
    assert_eq!(error, want);
}

fn peer(id: u64, key: u8) -> String {
    let key = EndpointKey([key; 32]);
    format!("id={id},endpoint_id={key},raft=127.0.0.1:400{id},http=127.0.0.1:800{id}")
}

#[test]
fn bad_settings_say_what_to_do() {
    check(&["--id", "1"], "data_dir is not set: give --data-dir, or data_dir in the file of --config");
    check(&["--id", "0", "--data-dir", "d"], "id is 0, node numbers start at 1");
    let (one, again, other) = (peer(1, 1), peer(2, 1), peer(2, 2));
    let base = ["--id", "1", "--data-dir", "d", "--peer"];
    check(&[&base[..], &[&one, "--peer", &one]].concat(), "peer 1 is given twice");
    check(
        &[&base[..], &[&one, "--peer", &again]].concat(),
        "peers 1 and 2 have the same endpoint_id: each node has a data directory of its own",
    );
    check(
        &[&base[..], &[&other]].concat(),
        "the peers do not name this node, 1: list every member, this one included",
    );
    let alone = "control = \"deterministic\" has no other members: leave out peers, ticket and secret";
    check(&["--id", "1", "--control", "deterministic", "--peer", &one], alone);
    let rejoin = "rejoin needs a ticket, by which the node comes back, and no id: it is given a new one";
    check(&["--data-dir", "d", "--bootstrap", "--rejoin"], rejoin);
    check(&["--id", "1", "--data-dir", "d", "--rejoin"], rejoin);
}

/// What others reach is private, unless that is not wanted.
#[test]
fn http_off_this_host_needs_a_certificate_and_something_to_be_shown() {
    let base = ["--id", "1", "--data-dir", "d", "--http-listen", "10.0.0.1:8001"];
    let tls = [&base[..], &["--http-tls-cert-file", "c", "--http-tls-key-file", "k"]].concat();
    let plain = "http_listen is 10.0.0.1:8001, which others reach, and without TLS whoever is on the way reads and changes what is \
                 sent: give http_tls_cert_file and http_tls_key_file, or http_insecure where everybody is trusted";
    check(&base, plain);
    check(&[&base[..], &["--http-token-file", "t"]].concat(), plain);
    check(
        &tls,
        "http_listen is 10.0.0.1:8001, and whoever reaches it could read and write everything: give http_token_file or \
         http_tls_client_ca_file, or http_insecure where everybody is trusted",
    );
    for enough in
        [["--http-token-file", "t"], ["--http-tls-client-ca-file", "a"], ["--http-insecure", "--bootstrap"]]
    {
        assert!(Config::load(args(&[&tls[..], &enough].concat())).is_ok(), "{enough:?}");
    }
    assert!(Config::load(args(&[&base[..], &["--http-insecure"]].concat())).is_ok());
    assert!(Config::load(args(&["--id", "1", "--data-dir", "d", "--http-listen", "[::1]:8001"])).is_ok());
    let half = |given, missing| format!("{given} is given without {missing}: TLS needs both");
    let of_half = |flag: &'static str| [&base[..], &[flag, "f"]].concat();
    check(&of_half("--http-tls-cert-file"), &half("http_tls_cert_file", "http_tls_key_file"));
    check(&of_half("--http-tls-key-file"), &half("http_tls_key_file", "http_tls_cert_file"));
    check(&of_half("--http-tls-client-ca-file"), &half("http_tls_client_ca_file", "http_tls_cert_file"));
}

#[test]
fn clients_come_over_quic_where_a_token_is_all_that_they_need() {
    let answers = |words: &[&str]| {
        let base = ["--id", "1", "--data-dir", "d", "--http-insecure"];
        Config::load(args(&[&base[..], words].concat())).unwrap().answers_over_quic()
    };
    let tls = ["--http-tls-cert-file", "c", "--http-tls-key-file", "k"];
    let by_certificate = [&tls[..], &["--http-tls-client-ca-file", "a"]].concat();
    let token = ["--http-token-file", "t"];
    let elsewhere = ["--raft-listen", "10.0.0.1:4001"];
    assert!(answers(&[]) && answers(&token) && answers(&[&token[..], &elsewhere].concat()));
    assert!(!answers(&elsewhere));
    // Others come by an address that stands for its own, or by a relay.
    assert!(
        !answers(&["--raft-advertise", "10.0.0.1:4001"]) && answers(&["--raft-advertise", "127.0.0.1:1"])
    );
    let by_relay = ["--relay-mode", "default"];
    assert!(!answers(&by_relay) && answers(&[&by_relay[..], &token].concat()));
    assert!(!answers(&by_certificate) && !answers(&[&by_certificate[..], &token].concat()));
}

#[test]
fn regions_are_short_words_and_each_is_preferred_once() {
    let load = |words: &[&str]| Config::load(args(&[&["--id", "1", "--data-dir", "d"], words].concat()));
    let about = load(&["--region", "eu-1", "--zone", "a", "--preferred-regions", "eu-1,us_2"]).unwrap().about;
    let text = |label: Option<&Label>| label.map(|label| label.as_str().to_owned());
    assert_eq!(text(about.region.as_ref()), Some("eu-1".to_owned()));
    assert_eq!(text(about.zone.as_ref()), Some("a".to_owned()));
    assert_eq!(about.preferred_regions.len(), 2);
    assert_eq!(load(&[]).unwrap().about, About::default());
    let refused = |words: &[&str]| load(words).unwrap_err().to_string();
    let twice = "preferred_regions names eu twice: name each region once, the best one first";
    assert_eq!(refused(&["--preferred-regions", "eu,us,eu"]), twice);
    let many: Vec<String> = (0..17).map(|number| format!("r{number}")).collect();
    let text = "preferred_regions names 17 regions, at most 16 are allowed";
    assert_eq!(refused(&["--preferred-regions", &many.join(",")]), text);
    let error = Cli::try_parse_from(["aspen-node", "--region", "a b"]).unwrap_err().to_string();
    let want = "`a b` is no name of a region or zone: 1 to 64 of A-Z, a-z, 0-9, _ and - are allowed";
    assert!(error.contains(want), "{error}");
}

#[test]
fn bad_relays_and_lookups_say_what_to_do() {
    let check =
        |words: &[&str], want: &str| check(&[&["--id", "1", "--data-dir", "d"], words].concat(), want);
    let relay = ["--relay-url", "http://relay"];
    check(
        &["--relay-mode", "custom"],
        "relay_mode is custom, and no relay is named: give --relay-url, or relay_urls in the file of --config",
    );
    for (words, mode) in [(&[][..], "disabled"), (&["--relay-mode", "default"], "default")] {
        check(
            &[words, &relay].concat(),
            &format!(
                "relay_urls are given, but relay_mode is {mode}: let it be custom to use them, or take them out of the settings"
            ),
        );
    }
    let custom = ["--relay-mode", "custom"];
    check(
        &[&custom[..], &relay, &["--relay-url", "http://relay/"]].concat(),
        "relay http://relay/ is given twice",
    );
    let urls: Vec<String> = (1..=5).map(|number| format!("--relay-url=http://{number}.test")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    check(&[&custom[..], &urls].concat(), "5 relay_urls, at most 4 are allowed");
    check(
        &["--dns-server", "10.0.0.53:53", "--mdns"],
        "dns_server is given, but nothing is asked by DNS: it needs dns_lookup, pkarr_relay or a relay_mode",
    );
    let typed =
        |words: &[&str]| Cli::try_parse_from([&["aspen-node"], words].concat()).unwrap_err().to_string();
    let said = typed(&["--relay-url", "relay"]);
    assert!(said.contains("invalid value 'relay' for '--relay-url <URL>': it is no URL"), "{said}");
    let said = typed(&["--relay-mode", "public"]);
    assert!(said.contains("[possible values: disabled, custom, default]"), "{said}");
    let said = typed(&["--dns-lookup", "a b"]);
    assert!(said.contains("invalid value 'a b' for '--dns-lookup <DOMAIN>': `a b` is no part"), "{said}");
}

#[test]
fn relays_and_lookups_are_off_unless_somebody_switches_them_on() {
    let (config, settings) = Config::load_with_sources(args(&["--data-dir", "d"])).unwrap();
    assert_eq!(config.lookups, Lookups::default());
    let printed: Vec<String> = settings.iter().map(ToString::to_string).collect();
    let printed: toml::Table = printed.join("\n").parse().unwrap();
    assert_eq!((printed["relay_mode"].as_str(), printed["mdns"].as_bool()), (Some("disabled"), Some(false)));
    assert!(printed["relay_urls"].as_array().unwrap().is_empty());
    for key in ["dns_lookup", "dns_server", "pkarr_relay"] {
        assert!(!printed.contains_key(key), "{key}");
    }
}

#[test]
fn relays_and_lookups_are_read_from_the_file_and_printed_as_it_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    let text = "data_dir = 'd'\nrelay_mode = 'custom'\nrelay_urls = ['https://a.test', 'http://b.test:3340']\nmdns = true\n\
                dns_lookup = 'nodes.test.'\ndns_server = '10.0.0.53:53'\npkarr_relay = 'https://pkarr.test/pkarr'\n";
    std::fs::write(&path, text).unwrap();
    let (config, settings) =
        Config::load_with_sources(args(&["--config", path.to_str().unwrap(), "--dns-lookup", "other.test"]))
            .unwrap();
    let Relays::Custom(urls) = &config.lookups.relays else { panic!("{config:?}") };
    assert_eq!(
        urls.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["https://a.test/", "http://b.test:3340/"]
    );
    assert_eq!(config.lookups.dns.as_ref().unwrap().to_string(), "other.test");
    assert!(config.lookups.mdns && config.lookups.pkarr.is_some());
    let printed: Vec<String> = settings.iter().map(ToString::to_string).collect();
    std::fs::write(&path, printed.join("\n")).unwrap();
    let again = Config::load(args(&["--config", path.to_str().unwrap()])).unwrap();
    assert_eq!(again.lookups, config.lookups);
    // A value that cannot be read is refused with its place.
    std::fs::write(&path, "pkarr_relay = 'pkarr.test'\n").unwrap();
    let error = Config::load(args(&["--config", path.to_str().unwrap()])).unwrap_err();
    let ConfigError::Parse { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("it is no URL (relative URL without a base)"), "{reason}");
}

#[test]
fn flags_go_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    let key = EndpointKey([7; 32]);
    let text = format!(
        "id = 3\ndata_dir = 'from-file'\nheartbeat_ms = 100\n\
         [[peers]]\nid = 3\nendpoint_id = '{key}'\nraft = '10.0.0.3:4001'\nhttp = '10.0.0.3:8001'\n"
    );
    std::fs::write(&path, text).unwrap();
    let file = path.to_str().unwrap();
    let config = Config::load(args(&["--config", file, "--data-dir", "from-flag"])).unwrap();
    assert_eq!(config.id, Some(NodeId(3)));
    assert_eq!(config.data_dir, PathBuf::from("from-flag"));
    assert_eq!(config.timing.heartbeat, Duration::from_millis(100));
    assert_eq!(config.timing.election_max, Duration::from_secs(2));
    assert_eq!(config.peers[0].1.endpoint_id, key);
}

#[test]
fn every_setting_says_where_it_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    std::fs::write(&path, "id = 3\nheartbeat_ms = 100\n").unwrap();
    let mut args = args(&["--config", path.to_str().unwrap(), "--data-dir", "d", "--log", "warn"]);
    args.from_environment.insert("log".to_owned());
    let (_, settings) = Config::load_with_sources(args).unwrap();
    let text: Vec<String> = settings.iter().map(ToString::to_string).collect();
    let of = |key: &str| text.iter().find(|line| line.starts_with(key)).unwrap().as_str();
    assert_eq!(of("id"), format!("{:<40} # {}", "id = 3", path.display()));
    assert_eq!(of("heartbeat_ms"), format!("{:<40} # {}", "heartbeat_ms = 100", path.display()));
    assert_eq!(of("data_dir"), format!("{:<40} # a flag", "data_dir = \"d\""));
    assert_eq!(of("log"), format!("{:<40} # ASPEN_LOG", "log = \"warn\""));
    assert_eq!(of("lease_clock"), format!("{:<40} # default", "lease_clock = \"auto\""));
    // It is what the file would have to say.
    let again: toml::Table = text.join("\n").parse().unwrap();
    assert_eq!(again["election_ms_max"].as_integer(), Some(2000));
    assert_eq!(again.len(), settings.iter().filter(|setting| setting.value.is_some()).count());
    // What it has no value for is there, too.
    assert_eq!(of("# region"), format!("{:<40} # not set", "# region ="));
}

#[test]
fn setting_that_is_wrong_names_the_file_or_the_variable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    std::fs::write(&path, "data_dir = 'd'\ntarget_voters = 0\n").unwrap();
    let file = path.to_str().unwrap();
    let want = "target_voters is 0, 1 to 100 are allowed";
    check(&["--config", file], &format!("{want} (it comes from {file})"));
    check(&["--data-dir", "d", "--target-voters", "0"], want);
    let mut args = args(&["--data-dir", "d", "--target-voters", "0"]);
    args.from_environment.insert("target_voters".to_owned());
    let error = Config::load(args).unwrap_err().to_string();
    assert_eq!(error, format!("{want} (it comes from ASPEN_TARGET_VOTERS)"));
}

/// TOML lets one character stand in no string that JSON does.
#[test]
fn printed_setting_is_read_again_whatever_stands_in_it() {
    let name = "\u{1}\u{7f}\"\\é";
    let (config, settings) = Config::load_with_sources(args(&["--data-dir", name])).unwrap();
    assert_eq!(config.data_dir, PathBuf::from(name));
    let printed: Vec<String> = settings.iter().map(ToString::to_string).collect();
    let again: toml::Table = printed.join("\n").parse().unwrap();
    assert_eq!(again["data_dir"].as_str(), Some(name));
}

#[test]
fn unknown_key_in_the_file_is_an_error_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    std::fs::write(&path, "id = 1\nhartbeat_ms = 5\n").unwrap();
    let error = Config::load(args(&["--config", path.to_str().unwrap()])).unwrap_err();
    let want =
        format!("{}:2:1: there is no setting `hartbeat_ms`: did you mean `heartbeat_ms`?", path.display());
    assert_eq!(error.to_string(), want);
    std::fs::write(&path, "colour = 'blue'\n").unwrap();
    let error = Config::load(args(&["--config", path.to_str().unwrap()])).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with(":1:1: there is no setting `colour`: `aspen-node config` prints all that there are"),
        "{error}"
    );
}

#[test]
fn secret_in_the_file_is_refused_and_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    let secret = "0123456789abcdef".repeat(4);
    let refused = |line: &str| {
        std::fs::write(&path, format!("id = 1\n  {line}\n")).unwrap();
        let error = Config::load(args(&["--config", path.to_str().unwrap()])).unwrap_err();
        let text = [vec![error.to_string()], crate::causes::causes(&error)].concat().join("\n");
        assert!(!text.contains(&secret), "{text}");
        text.replace(&*path.to_string_lossy(), "node.toml")
    };
    let want = "node.toml:2: secret is refused, settings hold no secrets: write it into a file of its own, which only this user can \
                read, and name that by secret_file";
    assert_eq!(refused(&format!("secret = '{secret}'")), want);
    assert!(refused(&format!("http_token = '{secret}'")).ends_with("name that by http_token_file"));
    for line in [format!("sekret = '{secret}'"), format!("gossip = true # {secret}\nno key")] {
        assert!(refused(&line).starts_with("node.toml:"), "{line}");
    }
}

#[test]
fn peer_flag_says_what_is_wrong() {
    let check = |text: &str, want: &str| {
        assert_eq!(text.parse::<PeerArg>().unwrap_err().to_string(), want);
    };
    check("id", "`id` is not of the form name=value");
    check("id=1,port=2", "a peer has no `port`: id, endpoint_id, raft and http are needed");
    check("id=1", "`endpoint_id` is missing: id, endpoint_id, raft and http are needed");
    check("id=1,endpoint_id=ab", "endpoint_id is `ab`: an endpoint id has 64 hexadecimal digits");
}

#[test]
fn variable_that_is_misspelt_is_found_and_those_of_others_are_not() {
    let found = |names: &[&str]| misspelt(names.iter().map(ToString::to_string));
    let wrong = |name: &str| found(&["PATH", name]).map(|(_, right)| right);
    assert_eq!(wrong("ASPEN_ELECTION_MS_MXA").as_deref(), Some("ASPEN_ELECTION_MS_MAX"));
    assert_eq!(wrong("ASPEN_ELECTION_MIN_MS").as_deref(), Some("ASPEN_ELECTION_MS_MIN"));
    assert_eq!(wrong("ASPEN_SECRETS").as_deref(), Some("ASPEN_SECRET"));
    // Those of the other programs, of tests, and what Kubernetes makes of a service called aspen.
    let others = "NODE TOKEN TOKEN_FILE CA_FILE TLS_NAME CLIENT_CERT_FILE CLIENT_KEY_FILE PLANT FAIL FAILED_AT_S IMAGE_KEY LONG SEEDS \
                  PORT SERVICE_HOST SERVICE_PORT SERVICE_PORT_HTTP PORT_8001_TCP_ADDR PORT_8001_TCP_PROTO";
    for name in others.split(' ').map(|name| format!("ASPEN_{name}")) {
        assert_eq!(found(&[&name]), None);
    }
}
