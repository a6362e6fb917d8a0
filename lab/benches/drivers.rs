//! What the drivers cost: `cargo bench -p aspen-lab --bench drivers`.
//!
//! Three nodes under little load, by each driver that this host has, in turns: from the start of the first node to the first
//! answered operation, the most memory that a node has taken, and the parts of the slowest boot. Medians of all rounds; times are
//! the wall's. Cloud Hypervisor runs in a guest of `lab rig` where this host has no KVM: there everything is emulated. The image is
//! that of the drivers: `ASPEN_IMAGE`, `ASPEN_KERNEL` or the one in the cache.

#![allow(clippy::disallowed_methods, reason = "it starts the program that it measures")]
#![allow(clippy::print_stdout, reason = "it prints its table")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails says where")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use aspen_lab::cluster::Boot;
use aspen_lab::cluster::pace::Pace;
use aspen_lab::report::Report;

const ROUNDS: usize = 3;
const SCENARIO: &str = "name: three\nabout: Three nodes with little to do.\nnodes: { count: 3 }\n\
                        workload: { rate: 10/s }\nduration: 5s\nchecks: [raft]\n";
/// A driver, and whether a host without KVM can have it in a guest.
const DRIVERS: [(&str, bool); 3] = [("process", false), ("qemu", false), ("cloud-hypervisor", true)];
/// This host lacks what the driver needs.
const REFUSED: i32 = 3;

/// What one run cost.
struct Cost {
    driver: String,
    up_s: f64,
    memory_mib: f64,
    boot: Option<Boot>,
}

/// Runs the scenario; nothing where this host does not have the driver.
fn run(home: &Path, driver: &str, is_in_rig: bool) -> Option<Cost> {
    let (file, out) = (home.join("three.yaml"), home.join("out"));
    fs::write(&file, SCENARIO).unwrap();
    let mut lab = Command::new(env!("CARGO_BIN_EXE_lab"));
    if is_in_rig {
        lab.arg("rig");
    }
    lab.arg("run").arg(&file).args(["--driver", driver, "--seed", "1", "--quiet", "--out"]).arg(&out);
    let output = lab.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => {}
        Some(REFUSED) => {
            println!("not measured: {driver}{}: {}", place(is_in_rig), said.trim().replace('\n', " "));
            return None;
        }
        code => panic!("{driver}: exit code {code:?}: {}{said}", String::from_utf8_lossy(&output.stdout)),
    }
    let report: Report = serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    fs::remove_dir_all(&out).unwrap();
    let costs = report.record.unwrap().costs.unwrap();
    let up = report.slowdown.unwrap_or(Pace::REAL).to_real(std::time::Duration::from_nanos(costs.up_ns));
    let memory = costs.nodes.iter().map(|(_, cost)| cost.memory_bytes).max().unwrap();
    Some(Cost {
        driver: report.driver + place(is_in_rig),
        up_s: up.as_secs_f64(),
        memory_mib: f64::from(u32::try_from(memory >> 10).unwrap()) / 1024.0,
        boot: costs.nodes.iter().filter_map(|(_, cost)| cost.boot).max_by_key(Boot::total_ms),
    })
}

fn place(is_in_rig: bool) -> &'static str {
    if is_in_rig { ", in a rig" } else { "" }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A row of the table.
fn print(costs: &[Cost]) {
    let Some(first) = costs.first() else { return };
    let up = median(costs.iter().map(|cost| cost.up_s).collect());
    let memory = median(costs.iter().map(|cost| cost.memory_mib).collect());
    print!("{:<36}{up:>9.2} s{memory:>9.0} MiB", first.driver);
    let boots: Vec<Boot> = costs.iter().filter_map(|cost| cost.boot).collect();
    if !boots.is_empty() {
        let part = |ms: fn(&Boot) -> u64| {
            let seconds = |boot| f64::from(u32::try_from(ms(boot)).unwrap()) / 1000.0;
            median(boots.iter().map(seconds).collect())
        };
        for ms in [
            |boot: &Boot| boot.hypervisor_ms,
            |boot: &Boot| boot.kernel_ms,
            |boot: &Boot| boot.init_ms,
            |boot: &Boot| boot.disk_ms,
            |boot: &Boot| boot.node_ms,
        ] {
            print!("{:>9.2} s", part(ms));
        }
    }
    println!();
}

fn main() {
    let home = tempfile::tempdir().unwrap();
    let mut rows: Vec<Vec<Cost>> = DRIVERS.map(|_| Vec::new()).into();
    let mut places: Vec<Option<bool>> = vec![Some(false); DRIVERS.len()];
    for _round in 0..ROUNDS {
        for (index, (driver, may_be_in_rig)) in DRIVERS.into_iter().enumerate() {
            // What was refused once is so the next time, too.
            while let Some(is_in_rig) = places[index] {
                if let Some(cost) = run(home.path(), driver, is_in_rig) {
                    rows[index].push(cost);
                    break;
                }
                places[index] = (may_be_in_rig && !is_in_rig).then_some(true);
            }
        }
    }
    println!("three nodes, medians of {ROUNDS} rounds:");
    print!("{:<36}{:>11}{:>13}", "driver", "first answer", "memory, most");
    println!("{:>11}{:>11}{:>11}{:>11}{:>11}", "hypervisor", "kernel", "init", "disk", "node");
    for costs in &rows {
        print(costs);
    }
}
