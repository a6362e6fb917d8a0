//! One machine on QEMU, from the image as it is: disks, a network card that leads nowhere or to QEMU's own network, console,
//! buttons and control channel. It knows nothing of clusters.

#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests with")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aspen_init::report::{Line, parse_line};
use aspen_lab::image::ImageFolder;
use serde_json::{Value as Json, json};

/// How long anything may take: an emulated machine on a busy host with a kernel of many modules takes half a minute.
pub(crate) const WAIT_MAX: Duration = Duration::from_mins(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A disk of a machine.
pub(crate) struct Disk<'a> {
    /// Its file.
    pub(crate) path: &'a Path,
    /// Its serial number; empty for none.
    pub(crate) serial: &'a str,
}

/// A machine that was started.
pub(crate) struct Machine {
    child: Child,
    home: PathBuf,
}

impl Machine {
    /// Starts one with its files in `home`, on this network (`-netdev`, without its id).
    pub(crate) fn start(
        qemu: &Path,
        image: &ImageFolder,
        home: &Path,
        disks: &[Disk<'_>],
        network: &str,
        append: &str,
    ) -> Self {
        let home = home.to_owned();
        for name in ["console", "qmp", "control"] {
            let _ = fs::remove_file(home.join(name));
        }
        let socket = |name: &str| format!("path={},server=on,wait=off", home.join(name).display());
        let mut command = Command::new(qemu);
        command.args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256", "-smp", "1"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.arg("-kernel").arg(image.bzimage().unwrap_or_else(|| image.vmlinux()));
        command.arg("-initrd").arg(image.initramfs());
        // Without the last word a kernel that is emulated on a busy host gives up on its timer.
        command.args(["-append", &format!("console=ttyS0 panic=1 quiet no_timer_check {append}")]);
        command.args(["-serial", &format!("file:{}", home.join("console").display())]);
        command.args(["-qmp", &format!("unix:{}", &socket("qmp")["path=".len()..])]);
        for (number, disk) in disks.iter().enumerate() {
            let serial =
                if disk.serial.is_empty() { String::new() } else { format!(",serial={}", disk.serial) };
            let file = format!("if=none,id=d{number},format=raw,file={}", disk.path.display());
            command.args(["-drive", &file]);
            command.args(["-device", &format!("virtio-blk-pci,drive=d{number}{serial}")]);
        }
        command.args(["-netdev", &format!("{network},id=n"), "-device", "virtio-net-pci,netdev=n"]);
        command.args(["-chardev", &format!("socket,id=c,{}", socket("control"))]);
        command.args(["-device", "virtio-serial-pci", "-device"]);
        command.args(["virtserialport,chardev=c,name=org.aspen.control", "-device", "virtio-rng-pci"]);
        let errors = fs::File::create(home.join("qemu.log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().unwrap();
        Self { child, home }
    }

    /// All that the console shows.
    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.home.join("console")).unwrap_or_default()).into_owned()
    }

    /// The first line of the console in which something is found.
    pub(crate) fn await_line<T>(&mut self, what: &str, find: impl Fn(Line) -> Option<T>) -> T {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let is_over = self.child.try_wait().unwrap().is_some();
            let console = self.console();
            // The last line may still grow.
            let whole = console.rfind('\n').map_or("", |end| &console[..end]);
            if let Some(found) = whole.lines().filter_map(parse_line).find_map(&find) {
                return found;
            }
            let log = fs::read_to_string(self.home.join("qemu.log")).unwrap();
            assert!(!is_over && Instant::now() < deadline, "no {what} on the console:\n{console}\n{log}");
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Waits until QEMU is gone, as it is when the machine turned itself off.
    pub(crate) fn await_end(&mut self) {
        let deadline = Instant::now() + WAIT_MAX;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the machine is still on:\n{}", self.console());
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Orders something of the hypervisor.
    pub(crate) fn order(&self, command: &str, arguments: &Json) {
        let mut stream = UnixStream::connect(self.home.join("qmp")).unwrap();
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let _greeting = lines.next();
        for order in
            [json!({ "execute": "qmp_capabilities" }), json!({ "execute": command, "arguments": arguments })]
        {
            writeln!(stream, "{order}").unwrap();
            let answer = lines.by_ref().map(Result::unwrap).find(|line| !line.contains("\"event\"")).unwrap();
            assert!(answer.contains("\"return\""), "{command}: {answer}");
        }
    }

    /// Asks something of the machine itself.
    pub(crate) fn ask(&self, request: &Json) -> Json {
        let mut stream = UnixStream::connect(self.home.join("control")).unwrap();
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
        writeln!(stream, "{request}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// Takes its power.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It is over already, or has to be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
