//! What a boot of the appliance costs: `cargo bench -p aspen-lab --bench boot`.
//!
//! From the start of QEMU to ASPEN-READY, on a blank data disk, on one that whoever made it has marked as new, as the lab does,
//! and on one that has been formatted, beside the same kernel with an init that prints one line, alone in its initramfs, and
//! again beside all that the appliance's initramfs holds: what unpacking costs. All five take turns, and medians count: of the
//! time that passed, and of the processor time that QEMU used, which says more where other programs run beside it. The image is
//! that of the `qemu` driver: `ASPEN_IMAGE`, `ASPEN_KERNEL` or the one in the cache. Arguments: an accelerator (tcg or kvm; tcg
//! if not given) and the MiB of memory.

#![allow(clippy::disallowed_methods, reason = "it reads the console while it grows")]
#![allow(clippy::print_stdout, reason = "it prints its table")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails says where")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aspen_init::layout::UNFINISHED;
use aspen_init::report::{Line, Ready, parse_line};
use aspen_lab::image::fat::FatFile;
use aspen_lab::image::initramfs::{Entry, Initramfs};
use aspen_lab::image::{ImageFolder, config_disk, ensure};
use aspen_lab::program::ProcessStat;
use nix::unistd::{SysconfVar, sysconf};

/// Measured in turns so often.
const ROUNDS: usize = 10;
const DISK_BYTES: u64 = 256 << 20;
const MEMORY_MIB: u32 = 128;
/// What the smallest init prints.
const BARE: &str = "ASPEN-BARE";
const CONFIG: &str = "hostname = 'n1'\naddress = '10.1.2.10/24'\n[node]\nid = 1\nhttp_listen = '0.0.0.0:7001'\nhttp_insecure = true\n";

/// What a boot cost.
struct Boot<T> {
    took: f64,
    processor: f64,
    found: T,
}

/// What every machine here has.
struct Bench {
    image: ImageFolder,
    accelerator: String,
    memory_mib: u32,
    home: tempfile::TempDir,
}

impl Bench {
    /// Boots a machine, and ends it when a line of its console is what is looked for.
    fn boot<T>(&self, initramfs: &Path, data: &Path, find: impl Fn(&str) -> Option<T>) -> Boot<T> {
        let drive = |id: &str, path: &Path| format!("if=none,id={id},format=raw,file={}", path.display());
        let began = Instant::now();
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-M", &format!("q35,accel={}", self.accelerator), "-cpu", "max"])
            .args(["-m", &format!("{}M", self.memory_mib), "-nodefaults", "-no-user-config"])
            .args(["-display", "none", "-no-reboot", "-serial", "stdio"])
            .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check", "-kernel"])
            .arg(self.image.kernel().unwrap())
            .arg("-initrd")
            .arg(initramfs)
            .args(["-drive", &drive("config", &self.config()), "-drive", &drive("data", data)])
            .args(["-device", "virtio-blk-pci,drive=config,serial=aspen-config"])
            .args(["-device", "virtio-blk-pci,drive=data,serial=aspen-data"])
            .args(["-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net,romfile="])
            .args(["-device", "virtio-rng-pci"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut console = BufReader::new(qemu.stdout.take().unwrap());
        let mut said = String::new();
        let found = loop {
            let before = said.len();
            let bytes = console.read_line(&mut said).unwrap();
            assert!(bytes > 0, "the machine ended before its time; its console:\n{said}");
            if let Some(found) = find(&said[before..]) {
                break found;
            }
        };
        let took = began.elapsed().as_secs_f64();
        let ticks = ProcessStat::read(qemu.id()).unwrap().cpu_ticks;
        qemu.kill().unwrap();
        qemu.wait().unwrap();
        let tick = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
        #[allow(clippy::cast_precision_loss, reason = "a few hundred ticks")]
        let processor = ticks as f64 / tick as f64;
        Boot { took, processor, found }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("config.raw")
    }

    /// A blank disk in place of what was there.
    fn blank_disk(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(DISK_BYTES).unwrap();
        path
    }

    /// One of which the appliance is told that it holds nothing.
    fn new_disk(&self, name: &str) -> PathBuf {
        let path = self.blank_disk(name);
        File::options().write(true).open(&path).unwrap().write_all(UNFINISHED).unwrap();
        path
    }
}

/// An ELF file (System V ABI) with one segment and this code (Intel SDM volume 2): it prints a line, and waits for ever.
fn bare_init() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u16 = 64 + 56;
    let text = format!("{BARE}\n");
    let length = u8::try_from(text.len()).unwrap();
    let code = [
        &[0xb8, 1, 0, 0, 0][..],                // mov eax, 1: write
        &[0xbf, 1, 0, 0, 0],                    // mov edi, 1: standard output
        &[0x48, 0x8d, 0x35, 0x10, 0, 0, 0],     // lea rsi, [rip + 16]: the text behind the code
        &[0xba, length, 0, 0, 0],               // mov edx, length
        &[0x0f, 0x05],                          // syscall
        &[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb], // mov eax, 34: pause; syscall; jmp
        &[0xf7],                                // to the mov
        text.as_bytes(),
    ]
    .concat();
    let size = u64::from(HEADERS) + code.len() as u64;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([2_u16, 62].map(u16::to_le_bytes).concat()); // an executable for x86-64
    file.extend(1_u32.to_le_bytes());
    file.extend([BASE + u64::from(HEADERS), 64, 0].map(u64::to_le_bytes).concat()); // entry, segments, sections
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    file.extend([1_u32, 5].map(u32::to_le_bytes).concat()); // load, to read and to execute
    file.extend([0, BASE, BASE, size, size, 0x1000].map(u64::to_le_bytes).concat());
    file.extend(code);
    file
}

fn bare_initramfs() -> Vec<u8> {
    let mut initramfs = Initramfs::default();
    initramfs.add("/init", Entry::File { bytes: bare_init(), is_program: true });
    initramfs.add("/dev/console", Entry::Device(5, 1));
    initramfs.pack(0).unwrap()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
}

/// A row of the table: medians, and of the time that passed the least and the most.
fn row<T>(what: &str, boots: &[Boot<T>]) -> (f64, f64) {
    let took: Vec<f64> = boots.iter().map(|boot| boot.took).collect();
    let least = took.iter().copied().fold(f64::INFINITY, f64::min);
    let most = took.iter().copied().fold(0.0, f64::max);
    let (took, processor) = (median(took), median(boots.iter().map(|boot| boot.processor).collect()));
    println!("{what:<38} {took:>6.2} s  {least:.2} to {most:.2}  {processor:>6.2} s of processor time");
    (took, processor)
}

fn difference(what: &str, more: (f64, f64), less: (f64, f64)) {
    println!("    {what:<34} {:>+6.2} s                {:>+6.2} s", more.0 - less.0, more.1 - less.1);
}

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let accelerator = words.next().unwrap_or_else(|| "tcg".to_owned());
    let memory_mib = words.next().map_or(MEMORY_MIB, |word| word.parse().unwrap());
    let image = ensure(&mut |text| println!("{text}")).unwrap();
    let bench = Bench { image, accelerator, memory_mib, home: tempfile::tempdir().unwrap() };
    config_disk::write(&bench.config(), &[FatFile { path: "aspen.conf", bytes: CONFIG.as_bytes() }]).unwrap();
    // The kernel unpacks one archive after the other: the later /init takes the place of the first.
    let alone = bench.path("bare.cpio.zst");
    let beside = bench.path("beside.cpio.zst");
    let whole = bench.image.initramfs();
    fs::write(&alone, bare_initramfs()).unwrap();
    fs::copy(&whole, &beside).unwrap();
    File::options().append(true).open(&beside).unwrap().write_all(&bare_initramfs()).unwrap();
    let is_bare = |line: &str| line.contains(BARE).then_some(());
    let ready = |line: &str| match parse_line(line)? {
        Line::Ready(ready) => Some(ready),
        _ => None,
    };
    let formatted = bench.blank_disk("formatted.raw");
    bench.boot(&whole, &formatted, ready);
    let [mut blank, mut new, mut later] = [vec![], vec![], vec![]];
    let [mut bare, mut unpacked] = [vec![], vec![]];
    for _round in 0..ROUNDS {
        bare.push(bench.boot(&alone, &bench.blank_disk("blank.raw"), is_bare));
        unpacked.push(bench.boot(&beside, &bench.blank_disk("blank.raw"), is_bare));
        blank.push(bench.boot(&whole, &bench.blank_disk("blank.raw"), ready));
        new.push(bench.boot(&whole, &bench.new_disk("new.raw"), ready));
        later.push(bench.boot(&whole, &formatted, ready));
    }
    println!(
        "Linux {}, {}, {} MiB, {ROUNDS} boots each: median, least and most",
        bench.image.release(),
        bench.accelerator,
        bench.memory_mib
    );
    let bare = row("an init that prints a line", &bare);
    let unpacked = row("beside the appliance's initramfs", &unpacked);
    difference("unpacking", unpacked, bare);
    let ready = [("blank", &blank), ("new", &new), ("formatted", &later)];
    for (disk, boots) in ready {
        let what = format!("ASPEN-READY, {disk} disk");
        difference("more than the first", row(&what, boots), bare);
        let part = |part: fn(&Ready) -> u64| {
            median(boots.iter().map(|boot| Duration::from_millis(part(&boot.found)).as_secs_f64()).collect())
        };
        println!(
            "    by its own clock: kernel {:.2} s, init {:.2} s, disk {:.2} s, node {:.2} s",
            part(|ready| ready.kernel_ms),
            part(|ready| ready.init_ms),
            part(|ready| ready.disk_ms),
            part(|ready| ready.node_ms)
        );
    }
}
