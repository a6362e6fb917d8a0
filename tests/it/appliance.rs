//! The appliance itself, on one emulated machine: it starts, it keeps what it has, it stops for every reason, and it says
//! what is wrong with what it is given.

mod machine;
mod restarts;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use aspen_init::report::{Exit, Line, Ready, Reason};
use aspen_lab::image::fat::FatFile;
use aspen_lab::image::workshop::Workshop;
use aspen_lab::image::{ImageFolder, config_disk, data, disk, ensure};
use aspen_node::cluster::ticket::AspenClusterTicket;
use aspen_node::network::secret::{ClusterSecrets, new_secret};
use serde_json::{Value as Json, json};

use self::machine::{Disk, Machine};
use crate::credentials::{Authority, Files, typed};
use crate::host;
use crate::lab::{Turn, turn};

/// One node with an address of its own.
pub(crate) const CONFIG: &str = "hostname = 'n1'\naddress = '10.1.2.10/24'\n[node]\nid = 1\nhttp_listen = '0.0.0.0:7001'\nhttp_insecure = true\n";
const DATA: &str = "aspen-data";

/// A folder for a machine, and what every machine needs.
struct Bench {
    _turn: Turn,
    qemu: PathBuf,
    image: ImageFolder,
    home: tempfile::TempDir,
}

impl Bench {
    fn open() -> Option<Self> {
        let qemu = host::qemu()?;
        // An emulated machine takes a whole processor.
        let turn = turn();
        let image = ensure(&mut |_what_takes_long| {}).unwrap();
        Some(Self { _turn: turn, qemu, image, home: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn config(&self, name: &str, config: &str) -> PathBuf {
        let path = self.path(name);
        config_disk::write(&path, &[FatFile { path: "aspen.conf", bytes: config.as_bytes() }]).unwrap();
        path
    }

    /// A disk of so many MiB that is blank but for this at this place.
    fn disk(&self, name: &str, mib: u64, at: u64, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        let mut file = File::create(&path).unwrap();
        file.set_len(mib << 20).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
        path
    }

    fn start(&self, disks: &[(&Path, &str)], append: &str) -> Machine {
        self.start_on("hubport,hubid=0", disks, append)
    }

    fn start_on(&self, network: &str, disks: &[(&Path, &str)], append: &str) -> Machine {
        let disks: Vec<Disk<'_>> = disks.iter().map(|(path, serial)| Disk { path, serial }).collect();
        Machine::start(&self.qemu, &self.image, self.home.path(), &disks, network, append)
    }
}

fn await_ready(machine: &mut Machine) -> Ready {
    machine.await_line("ASPEN-READY", |line| if let Line::Ready(ready) = line { Some(ready) } else { None })
}

fn await_exit(machine: &mut Machine) -> Exit {
    let exit =
        machine.await_line("ASPEN-EXIT", |line| if let Line::Exit(exit) = line { Some(exit) } else { None });
    machine.await_end();
    exit
}

#[test]
fn every_way_to_stop_it_is_a_clean_one_and_its_disk_stays() {
    let Some(bench) = Bench::open() else { return };
    let (config, data) = (bench.config("config", CONFIG), bench.disk("data", 128, 0, b""));
    let disks = [(config.as_path(), ""), (data.as_path(), DATA)];

    // First of all a power cut: what is on the disk by then has to do.
    let mut machine = bench.start(&disks, "");
    let first = await_ready(&mut machine);
    machine.kill();
    assert!(machine.console().contains("is blank: writing an empty file system"), "{}", machine.console());
    assert_eq!((first.hostname.as_str(), first.http.as_str()), ("n1", "10.1.2.10:7001"));
    assert_eq!(first.addresses, ["10.1.2.10/24"]);
    let steps = first.kernel_ms + first.init_ms + first.disk_ms + first.node_ms;
    assert!(first.uptime_ms.abs_diff(steps) < 1000, "{first:?}");

    let button: fn(&Machine) = |machine| machine.order("system_powerdown", &json!({}));
    let keys: fn(&Machine) = |machine| {
        let keys = ["ctrl", "alt", "delete"].map(|key| json!({ "type": "qcode", "data": key }));
        machine.order("send-key", &json!({ "keys": keys }));
    };
    let control: fn(&Machine) = |machine| {
        assert_eq!(machine.ask(&json!({ "id": 7, "do": "stop" })), json!({ "id": 7, "ok": {} }));
    };
    for (stop, reason) in
        [(button, Reason::PowerButton), (keys, Reason::CtrlAltDel), (control, Reason::Control)]
    {
        let mut machine = bench.start(&disks, "");
        let ready = await_ready(&mut machine);
        assert_eq!(ready.endpoint_id, first.endpoint_id, "the node is another one");
        let health = machine.ask(&json!({ "id": 1, "do": "health" }));
        assert_eq!((&health["ok"]["node"], &health["ok"]["restarts"]), (&json!("running"), &json!(0)));
        stop(&machine);
        let exit = await_exit(&mut machine);
        assert_eq!(
            (exit.reason, exit.node_exit.as_deref()),
            (reason, Some("code 0")),
            "{}",
            machine.console()
        );
        assert!(!machine.console().contains("is blank"), "{}", machine.console());
    }
}

#[test]
fn control_channel_moves_the_clock_and_probes() {
    let Some(bench) = Bench::open() else { return };
    let (config, data) = (bench.config("config", CONFIG), bench.disk("data", 128, 0, b""));
    let mut machine = bench.start(&[(&config, ""), (&data, DATA)], "");
    await_ready(&mut machine);
    let clock = |machine: &Machine| -> i64 {
        machine.ask(&json!({ "id": 1, "do": "health" }))["ok"]["clock_ms"].as_i64().unwrap()
    };
    let done = |id: u64| json!({ "id": id, "ok": {} });
    let set = 1_800_000_000_000_i64;
    assert_eq!(machine.ask(&json!({ "id": 2, "do": "set_clock", "unix_ms": set })), done(2));
    assert!((set..set + 60_000).contains(&clock(&machine)));
    assert_eq!(machine.ask(&json!({ "id": 3, "do": "step_clock", "by_ms": -3_600_000 })), done(3));
    assert!((set - 3_600_000..set - 3_500_000).contains(&clock(&machine)));
    let probe = |to: &str| machine.ask(&json!({ "id": 4, "do": "probe", "to": to, "within_ms": 500 }));
    // The node itself answers, a port where nobody listens too, and nobody at all does not.
    assert!(probe("10.1.2.10:7001")["ok"]["answered_us"].is_u64());
    assert!(probe("10.1.2.10:1")["ok"]["answered_us"].is_u64());
    assert_eq!(probe("10.1.2.11:7001")["ok"], json!({ "unanswered": true }));
    let refused: Json = machine.ask(&json!({ "id": 5, "do": "set_clock", "unix_ms": -1 }));
    assert_eq!(refused["error"], "cannot set the clock: unix time -1 ms, 0 to 253402300799999 are allowed");
}

/// QEMU's own network has a DHCP server and a router that advertises a prefix; nothing of it leaves the machine. The data disk
/// has no serial number, and is the only one that is blank.
#[test]
fn addresses_come_from_a_server_and_from_a_router() {
    const NETWORK: &str = "user,restrict=on,net=10.9.0.0/24,dhcpstart=10.9.0.77,ipv6-net=fd00:a59e::/64";
    let Some(bench) = Bench::open() else { return };
    let data = bench.disk("data", 128, 0, b"");
    for (address, is_ours) in [("dhcp", "10.9.0.77/24"), ("auto", "fd00:a59e::")] {
        let text = CONFIG.replace("10.1.2.10/24", address).replace("0.0.0.0:7001", "[::]:7001");
        let config = bench.config(address, &text);
        let mut machine = bench.start_on(NETWORK, &[(&config, ""), (&data, "")], "");
        let ready = await_ready(&mut machine);
        let [found] = ready.addresses.as_slice() else { panic!("{ready:?}:\n{}", machine.console()) };
        assert!(found.starts_with(is_ours) && ready.http.contains("7001"), "{ready:?}");
        machine.order("system_powerdown", &json!({}));
        assert_eq!(await_exit(&mut machine).reason, Reason::PowerButton);
    }
}

/// Certificates, tokens and the cluster's secret come in files of the config disk, and are on no disk of the machine.
#[test]
fn private_files_of_the_config_disk_are_the_nodes() {
    let Some(bench) = Bench::open() else { return };
    let files = Files::new();
    let authority = Authority::new();
    let trusted = authority.put(&files, "trusted");
    let [certificate, key] = authority.sign(&files, "node", "n1.example");
    let (token, secret) = (files.put("token", &"t".repeat(40)), new_secret());
    let node_toml = "http_tls_cert_file = '/run/aspen/private/node-certificate.pem'\n\
                     http_tls_key_file = '/run/aspen/private/node.key'\nhttp_token_file = '/run/aspen/private/token'\n\
                     secret_file = '/run/aspen/private/secret'\nbootstrap = true\n";
    let config = CONFIG
        .replace("0.0.0.0", "10.1.2.10")
        .replace("http_insecure = true\n", "raft_listen = '10.1.2.10:7000'\n");
    let read = |path: &str| fs::read(path).unwrap();
    let (certificate, key, shown) = (read(&certificate), read(&key), read(&token));
    let disk = bench.path("config");
    let file = |path, bytes| FatFile { path, bytes };
    config_disk::write(
        &disk,
        &[
            file("aspen.conf", config.as_bytes()),
            file("node.toml", node_toml.as_bytes()),
            file("private/node-certificate.pem", &certificate),
            file("private/node.key", &key),
            file("private/token", &shown),
            file("private/secret", secret.as_bytes()),
        ],
    )
    .unwrap();
    let data = bench.disk("data", 128, 0, b"");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let network = format!("user,restrict=on,net=10.1.2.0/24,hostfwd=tcp:127.0.0.1:{port}-10.1.2.10:7001");
    let mut machine = bench.start_on(&network, &[(&disk, ""), (&data, DATA)], "");
    await_ready(&mut machine);
    let ask = |words: &[&str]| {
        let known = ["--ca", &trusted, "--tls-name", "n1.example", "--token-file", &token];
        typed(&format!("https://127.0.0.1:{port}"), &[&known, words].concat())
    };
    assert_eq!(
        ask(&["kv", "put", "k", "v"]).0,
        0,
        "{:?}\n{}",
        ask(&["cluster", "status"]),
        machine.console()
    );
    let (code, ticket) = ask(&["cluster", "ticket"]);
    assert_eq!(code, 0, "{ticket}");
    let ticket: AspenClusterTicket = ticket.trim().parse().unwrap();
    assert_eq!(
        ticket.cluster_id,
        ClusterSecrets::parse(secret.clone(), "a test").unwrap().first().cluster_id()
    );
    machine.order("system_powerdown", &json!({}));
    assert_eq!(await_exit(&mut machine).reason, Reason::PowerButton);
    let console = machine.console();
    let named = "node-certificate.pem, node.key, secret, token for the node, in /run/aspen/private";
    assert!(console.contains(named) && !console.contains(&secret), "{console}");
    let kept = fs::read(&data).unwrap();
    assert!(
        !kept.windows(secret.len()).any(|part| part == secret.as_bytes()),
        "the secret is on the data disk"
    );
}

/// A cloud makes the image's disk larger than it is: partition and file system take all of it, once.
#[test]
fn grown_disk_of_the_image_is_used_to_its_end() {
    let Some(bench) = Bench::open() else { return };
    let path = bench.path("image.raw");
    let mut silent = |_: &str| {};
    let workshop = Workshop::open(&bench.path("workshop"), &mut silent).unwrap();
    let ext4 = data::empty_ext4(bench.home.path(), 315_532_800, &workshop).unwrap();
    disk::write(&path, b"no firmware starts this", &ext4).unwrap();
    let before = disk::partitions(&path).unwrap();
    let grown_by = 512 << 20;
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() + grown_by).unwrap();
    let config = bench.config("config", CONFIG);
    for start in 1..=2 {
        let mut machine = bench.start(&[(&config, ""), (&path, "")], "");
        await_ready(&mut machine);
        machine.order("system_powerdown", &json!({}));
        assert_eq!(await_exit(&mut machine).reason, Reason::PowerButton);
        let console = machine.console();
        let counts = ["growing partition 2 to ", "growing the file system to ", "cannot grow"]
            .map(|text| console.matches(text).count());
        assert_eq!(counts, if start == 1 { [1, 1, 0] } else { [0, 0, 0] }, "start {start}: {console}");
    }
    // Read by others than the appliance's own code.
    let after = disk::partitions(&path).unwrap();
    assert_eq!(after[0], before[0]);
    assert_eq!((after[1].start, after[1].bytes), (before[1].start, before[1].bytes + grown_by));
}

/// Starts a machine that has to go off by itself, and compares what it says.
#[track_caller]
fn check_refused(bench: &Bench, disks: &[(&Path, &str)], append: &str, want: Reason, text: &str) {
    let mut machine = bench.start(disks, append);
    let exit = await_exit(&mut machine);
    let error =
        machine.await_line("error", |line| if let Line::Error(text) = line { Some(text) } else { None });
    assert_eq!((exit.reason, error.as_str()), (want, text));
}

#[test]
fn what_it_cannot_use_is_named_and_the_machine_goes_off() {
    let Some(bench) = Bench::open() else { return };
    let config = bench.config("config", CONFIG);
    let data = bench.disk("data", 128, 0, b"");
    let data_disk = (data.as_path(), DATA);

    let twin = bench.config("twin", CONFIG);
    check_refused(
        &bench,
        &[(&config, ""), (&twin, ""), data_disk],
        "",
        Reason::Config,
        "/dev/vda and /dev/vdb are both labelled ASPEN-CFG: leave one attached",
    );
    let broken = bench.config("broken", "hostname = 'n1'\naddress 10.1.2.10/24\n");
    check_refused(
        &bench,
        &[(&broken, ""), data_disk],
        "",
        Reason::Config,
        "aspen.conf on the config disk, line 2: key with no value, expected `=`",
    );
    check_refused(
        &bench,
        &[data_disk],
        "aspen.node.cluster_secret=1",
        Reason::Config,
        "the kernel command line: node.cluster_secret is refused, no key holds a secret: the only one is the node's, in the file \
         secret.key on the config disk",
    );
    check_refused(
        &bench,
        &[(&config, "")],
        "",
        Reason::Disk,
        "no data disk: attach a virtio disk with the serial number aspen-data",
    );
    let small = bench.disk("small", 1, 0, b"");
    let mut machine = bench.start(&[(&config, ""), (&small, DATA)], "");
    assert_eq!(await_exit(&mut machine).reason, Reason::Disk);
    let console = machine.console();
    assert!(console.contains("/dev/vdb has 1048576 bytes, at least "), "{console}");
}

#[test]
fn disk_that_holds_anything_is_left_as_it_is() {
    let Some(bench) = Bench::open() else { return };
    let config = bench.config("config", CONFIG);
    let check = |name: &str, at: u64, bytes: &[u8], what: &str| {
        let data = bench.disk(name, 128, at, bytes);
        let before = fs::read(&data).unwrap();
        let text = format!(
            "the data disk /dev/vdb holds {what} and is left as it is: attach a blank one, or wipe it yourself"
        );
        check_refused(&bench, &[(&config, ""), (&data, DATA)], "", Reason::Disk, &text);
        assert!(fs::read(&data).unwrap() == before, "{what}: the disk was written to");
    };
    check("end", (128 << 20) - 1, b"x", "data of an unknown kind at byte 134217727");
    // An ext4 whose partition table is gone.
    check("lost", (1 << 20) + 0x438, b"\x53\xef", "data of an unknown kind at byte 1049656");
    check("btrfs", 0x1_0040, b"_BHRfS_M", "a btrfs file system");
}
