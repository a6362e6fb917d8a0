//! Configurations as data: what each source says, which one counts, and what is said of mistakes.

use super::*;

fn settings(file_text: &str, line: &str) -> Result<Settings, ConfigError> {
    let mut entries = file(file_text)?;
    entries.extend(command_line(line)?);
    Settings::from_entries(entries)
}

#[track_caller]
fn check_refused(file_text: &str, line: &str, want: &str) {
    assert_eq!(settings(file_text, line).unwrap_err().to_string(), want);
}

const FULL: &str = r#"
hostname = "n1"
address = ["10.1.2.10/24", "fd00::1/64"]
gateway = "10.1.2.1, fd00::ff"
neighbours = ["10.1.2.11=52:54:00:00:00:0b"]
mac = "52:54:00:00:00:0a"
mtu = 9000
data.device = "serial:aspen-data"
data.format = "never"

[node]
id = 1
http_listen = "0.0.0.0:7001"
peer = ["id=1,x=2", "id=2,x=3"]

[net2]
mac = "52:54:00:00:01:0a"
address = "10.1.3.10/24"
"#;

#[test]
fn file_says_everything() {
    let settings = settings(FULL, "").unwrap();
    assert_eq!(settings.hostname.as_deref(), Some("n1"));
    let [first, second] = settings.interfaces.as_slice() else { panic!("{:?}", settings.interfaces) };
    let addresses: Vec<String> = first.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.1.2.10/24", "fd00::1/64"]);
    assert_eq!(first.gateways.len(), 2);
    assert_eq!(first.neighbours[0].mac, MacAddress([0x52, 0x54, 0, 0, 0, 0x0b]));
    assert_eq!(first.mac, Some(MacAddress([0x52, 0x54, 0, 0, 0, 0x0a])));
    assert_eq!((first.mtu, second.mtu), (Some(9000), None));
    assert_eq!(second.mac, Some(MacAddress([0x52, 0x54, 0, 0, 1, 0x0a])));
    assert_eq!(second.addresses.len(), 1);
    assert_eq!(settings.data_device, DataDevice::Serial("aspen-data".to_owned()));
    assert_eq!(settings.data_format, DataFormat::Never);
    let flags: Vec<_> = settings.node_flags.iter().map(|(flag, value)| format!("--{flag} {value}")).collect();
    assert_eq!(flags, ["--http-listen 0.0.0.0:7001", "--id 1", "--peer id=1,x=2", "--peer id=2,x=3"]);
    assert_eq!(settings.places["hostname"].to_string(), "aspen.conf on the config disk, line 2");
}

#[test]
fn written_file_says_the_same() {
    for text in [FULL, "", "address = 'dhcp'\nnode.log = 'a \"b\" \\c'\n"] {
        let first = settings(text, "").unwrap();
        let mut second = settings(&first.to_file(), "").unwrap();
        for (key, place) in &mut second.places {
            place.line = first.places.get(key).and_then(|place| place.line);
        }
        second.places.retain(|key, _| first.places.contains_key(key));
        assert_eq!(second, first, "{}", first.to_file());
    }
}

#[test]
fn first_source_counts_key_by_key() {
    let mut entries =
        vec![text(Source::FwCfg, "hostname", "c\n"), text(Source::FwCfg, "mac", "02:00:00:00:00:01")];
    smbios_string(&mut entries, "aspen.hostname=d").unwrap();
    smbios_string(&mut entries, "aspen.data.format=never").unwrap();
    smbios_string(&mut entries, "somebody else's").unwrap();
    entries.extend(command_line("quiet aspen.hostname=b aspen.address=dhcp").unwrap());
    let without_disk = Settings::from_entries(entries.clone()).unwrap();
    assert_eq!(without_disk.hostname.as_deref(), Some("b"));
    entries.extend(file("hostname = 'a'").unwrap());
    let settings = Settings::from_entries(entries).unwrap();
    assert_eq!(settings.hostname.as_deref(), Some("a"));
    let sources: Vec<_> = settings.places.iter().map(|(key, place)| format!("{key} from {place}")).collect();
    assert_eq!(
        sources,
        [
            "address from the kernel command line",
            "data.format from smbios type 11",
            "hostname from aspen.conf on the config disk, line 1",
            "mac from fw_cfg",
        ]
    );
}

#[test]
fn flag_of_the_node_is_one_key_in_both_spellings() {
    let told = settings("node.http_listen = 'a'", "aspen.node.http-listen=b").unwrap();
    assert_eq!(told.node_flags, [("http-listen".to_owned(), "a".to_owned())]);
    let twice = settings("node.http_listen = 'a'\nnode.http-listen = 'b'", "").unwrap_err();
    assert!(matches!(twice, ConfigError::Twice { .. }), "{twice}");
}

#[test]
fn command_line_has_quotes_and_lists() {
    let line =
        "console=ttyS0 aspen.node.log=\"a b\" aspen.node.peer=1 aspen.node.peer=2 aspen.address=dhcp,auto\n";
    let settings = settings("", line).unwrap();
    assert_eq!(settings.interfaces[0].addresses, [Address::Dhcp, Address::Auto]);
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(settings.node_flags, [pair("log", "a b"), pair("peer", "1"), pair("peer", "2")]);
}

#[test]
fn what_is_no_configuration_is_refused_with_its_line() {
    check_refused(
        "hostname = 'a'\nhost name = 'b'\n",
        "",
        "aspen.conf on the config disk, line 2: key with no value, expected `=`",
    );
    check_refused(
        "\nhostnam = 'a'\n",
        "",
        "aspen.conf on the config disk, line 2: there is no key `hostnam`: hostname, address, gateway, neighbours, mac, \
         mtu, data.device, data.format, address, gateway, neighbours, mac, mtu of net2 to net4, and node.FLAG for each flag of the node, are known",
    );
    check_refused(
        "net3.mac = '02:00:00:00:00:03'",
        "",
        "interface 2 has no mac, by which its card is known: set net2.mac",
    );
    check_refused(
        "mac = '02:00:00:00:00:03'\nnet2.mac = '02:00:00:00:00:03'",
        "",
        "net2.mac is the address of another interface: each has a card of its own",
    );
    check_refused(
        "",
        "aspen.mtu=1",
        "the kernel command line: mtu is `1`: no MTU: 576 to 65535 bytes are allowed",
    );
    for key in ["net1.mac", "net5.mac", "net2.hostname"] {
        let error = settings("", &format!("aspen.{key}=a")).unwrap_err();
        assert!(matches!(error, ConfigError::UnknownKey { .. }), "{key}: {error}");
    }
    check_refused(
        "node.a = 1.5",
        "",
        "aspen.conf on the config disk, line 1: node.a is a number with a fraction, a text, a number, true, false or a \
         list of them is allowed",
    );
    check_refused(
        "",
        "aspen.hostname",
        "the kernel command line: `aspen.hostname` has no value: write aspen.KEY=VALUE",
    );
    check_refused(
        "node.data_dir = '/tmp'",
        "",
        "aspen.conf on the config disk, line 1: node.data_dir is refused: the appliance sets it itself",
    );
}

#[test]
fn mistake_in_a_hidden_source_is_one_too() {
    check_refused(
        "hostname = 'a'",
        "aspen.hostname=-",
        "the kernel command line: hostname is `-`: no host name: letters, digits and hyphens between dots, 1 to 64 bytes",
    );
}

#[test]
fn secret_is_refused_wherever_others_read_it() {
    let rest = "is refused, no key holds a secret: the only one is the node's, in the file secret.key on the config disk";
    for key in ["secret.key", "node.Secret", "node.cluster_secret"] {
        let want = format!("the kernel command line: {key} {rest}");
        check_refused("", &format!("aspen.{key}=1"), &want);
        let entries = vec![text(Source::FwCfg, key, "1")];
        let error = Settings::from_entries(entries).unwrap_err().to_string();
        assert_eq!(error, format!("fw_cfg: {key} {rest}"));
    }
}

#[test]
fn values_are_refused_with_what_is_allowed() {
    let check = |key: &str, value: &str, reason: &str| {
        let want = format!("the kernel command line: {key} is `{value}`: {reason}");
        check_refused("", &format!("aspen.{key}={value}"), &want);
    };
    let address = "no address: ADDRESS/PREFIX such as 10.1.2.10/24, dhcp or auto";
    check("address", "10.1.2.10", address);
    check("address", "10.1.2/24", address);
    check("address", "10.1.2.10/33", "the prefix has 0 to 32 bits for IPv4, 0 to 128 for IPv6");
    check("gateway", "10.1.2", "no IP address");
    check(
        "mac",
        "52:54:00:00:00",
        "no Ethernet address: six pairs of hexadecimal digits with colons between",
    );
    check("neighbours", "10.1.2.3", "no neighbour: ADDRESS=MAC such as 10.1.2.11=52:54:00:00:00:0b");
    check("data.device", "vdb", "no disk: auto, serial:NAME or a path in /dev");
    check("data.device", "serial:", "a serial number has 1 to 20 bytes");
    check("data.format", "always", "if-blank and never are allowed");
}

#[test]
fn counts_are_bounded() {
    let place = "the kernel command line: ";
    check_refused("", "aspen.mac=a aspen.mac=b", &format!("{place}mac has 2 values, 1 is allowed"));
    let many = vec!["10.0.0.1/8"; ADDRESSES_MAX + 1].join(",");
    let want = format!("{place}address has 17 values, 1 to 16 are allowed");
    check_refused("", &format!("aspen.address={many}"), &want);
    let want =
        format!("{place}gateway has two addresses of one family, one IPv4 and one IPv6 address are allowed");
    check_refused("", "aspen.gateway=10.0.0.1,10.0.0.2", &want);
    let flags: Vec<String> = (0..=NODE_FLAGS_MAX).map(|n| format!("aspen.node.peer={n}")).collect();
    check_refused("", &flags.join(" "), "129 flags for the node, at most 128 are allowed: use node.toml");
    let long = "x".repeat(crate::limits::VALUE_BYTES_MAX + 1);
    let want = format!("{place}node.log has 65537 bytes, at most 65536 are allowed");
    check_refused("", &format!("aspen.node.log={long}"), &want);
    check_refused(
        "hostname = 'a'\nhostname = 'b'",
        "",
        "aspen.conf on the config disk, line 2: duplicate key",
    );
}
