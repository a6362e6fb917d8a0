//! Rules about source files.

/// A source file: its path in the repository and its text.
pub(super) struct File {
    pub(super) path: String,
    pub(super) text: String,
}

/// A crate, and the files and folders that may name it.
struct Fence {
    name: &'static str,
    allowed: &'static [&'static str],
}

const FENCES: &[Fence] = &[
    Fence {
        name: "openraft",
        allowed: &[
            "node/src/host.rs",
            "node/src/host/",
            "node/src/types.rs",
            "node/src/raft.rs",
            "node/src/raft/",
            "node/src/storage.rs",
            "node/src/storage/",
            "node/src/network.rs",
            "node/src/network/",
        ],
    },
    Fence {
        name: "redb",
        allowed: &[
            "node/src/storage.rs",
            "node/src/storage/log.rs",
            "node/src/storage/log/",
            "node/src/cluster/metadata.rs",
        ],
    },
    Fence {
        name: "rusqlite",
        allowed: &["node/src/storage.rs", "node/src/storage/sqlite.rs", "node/src/storage/sqlite/"],
    },
    Fence {
        name: "iroh",
        allowed: &[
            "node/src/network/iroh.rs",
            "node/src/network/iroh/",
            "node/src/cluster/discovery.rs",
            "node/src/cluster/discovery/",
        ],
    },
    Fence { name: "iroh_gossip", allowed: &["node/src/network/iroh.rs", "node/src/cluster/discovery.rs"] },
    Fence { name: "iroh_mdns_address_lookup", allowed: &["node/src/network/iroh/lookups.rs"] },
    Fence { name: "iroh_relay", allowed: &["tests/it/lookups/"] },
    Fence { name: "irpc", allowed: &["node/src/network/"] },
    Fence { name: "irpc_iroh", allowed: &["node/src/network/"] },
    Fence { name: "serde_yaml", allowed: &["lab/src/scenario/parse.rs"] },
    Fence { name: "rtnetlink", allowed: &["lab/src/fabric/"] },
    Fence { name: "vhost", allowed: BLOCK_DEVICE },
    Fence { name: "vhost_user_backend", allowed: BLOCK_DEVICE },
    Fence { name: "virtio_bindings", allowed: BLOCK_DEVICE },
    Fence { name: "virtio_queue", allowed: BLOCK_DEVICE },
    Fence { name: "tun_tap", allowed: &["lab/src/fabric/"] },
    Fence { name: "nftables", allowed: &["lab/src/fabric/kernel/nft.rs", "lab/src/fabric/kernel/nft/"] },
    Fence { name: "cpio", allowed: &["lab/src/image/initramfs.rs"] },
    Fence { name: "gpt", allowed: &["lab/src/image/disk.rs"] },
    Fence { name: "object", allowed: &["lab/src/image/elf.rs", "lab/src/image/uki.rs"] },
    Fence { name: "oci_spec", allowed: &["lab/src/image/oci.rs"] },
    Fence { name: "tar", allowed: &["lab/src/image/oci.rs"] },
    Fence { name: "ed25519_dalek", allowed: &["lab/src/image/sign.rs"] },
    Fence { name: "netlink_packet_core", allowed: &["images/init/src/pid1/network/netlink.rs"] },
    Fence { name: "netlink_packet_route", allowed: &["images/init/src/pid1/network/netlink.rs"] },
    Fence {
        name: "smoltcp",
        allowed: &["images/init/src/pid1/network/dhcp.rs", "images/init/src/pid1/network/dhcp/"],
    },
    Fence { name: "signal_hook", allowed: &["images/init/src/pid1/events.rs"] },
];

/// The one device that the lab serves to hypervisors.
const BLOCK_DEVICE: &[&str] = &["lab/src/machine/vm/block.rs", "lab/src/machine/vm/block/"];

/// The one place of the lab that starts programs, and the one of the appliance. Tests start what they test.
const STARTS_PROGRAMS: &[&str] = &["lab/src/program.rs", "lab/src/program/", "images/init/src/pid1/node.rs"];

fn is_allowed(path: &str, allowed: &[&str]) -> bool {
    allowed.iter().any(|place| if place.ends_with('/') { path.starts_with(place) } else { path == *place })
}

/// Crates that are named outside their files.
pub(super) fn fences(file: &File) -> Vec<String> {
    let mut complaints = Vec::new();
    for (line, code) in code_lines(&file.text) {
        for fence in FENCES {
            if names_crate(code, fence.name) && !is_allowed(&file.path, fence.allowed) {
                complaints.push(format!("{}:{line}: {} is named outside its fence", file.path, fence.name));
            }
        }
        let is_source = file.path.contains("/src/") && !is_test_file(&file.path);
        if is_source && names_command(code) && !is_allowed(&file.path, STARTS_PROGRAMS) {
            complaints.push(format!("{}:{line}: programs are started in lab/src/program.rs only", file.path));
        }
    }
    complaints
}

/// Whether a path of the code begins with this crate.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(place, _)| {
        let (before, after) = (&code[..place], &code[place + name.len()..]);
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '.');
        let imported = before.ends_with("use ") && (after.starts_with(';') || after.starts_with(" as "));
        begins && (after.starts_with("::") || imported)
    })
}

fn names_command(code: &str) -> bool {
    let imports = code.contains("std::process::") && words(code).any(|word| word == "Command");
    imports || code.contains("process::Command")
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// Numbered lines without their comments.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines().map(|line| match line.find("//") {
        // A comment, or an address in a text: neither names a crate.
        Some(place) => &line[..place],
        None => line,
    }))
}

/// The three groups of imports, in their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Group {
    Std,
    Crates,
    Own,
}

fn group(import: &str) -> Group {
    let path = import.split_once("use ").map_or(import, |(_, path)| path);
    match path.split(|c: char| !c.is_alphanumeric() && c != '_').next() {
        Some("std" | "core" | "alloc") => Group::Std,
        Some("crate" | "super" | "self") => Group::Own,
        _ => Group::Crates,
    }
}

/// Imports at the left margin that are not in order, or groups that no blank line parts.
pub(super) fn import_order(file: &File) -> Vec<String> {
    let mut complaints = Vec::new();
    // The group of the import before, and whether a blank line followed it.
    let mut before: Option<(Group, bool)> = None;
    let mut inside = false;
    for (number, line) in (1..).zip(file.text.lines()) {
        let begins =
            !inside && (line.starts_with("use ") || (line.starts_with("pub") && line.contains(" use ")));
        if begins {
            let next = group(line);
            match before {
                Some((last, _)) if next < last => {
                    complaints.push(format!("{}:{number}: {next:?} after {last:?}", file.path));
                }
                Some((last, false)) if next != last => {
                    complaints.push(format!("{}:{number}: no blank line before {next:?}", file.path));
                }
                _ => {}
            }
            before = Some((next, false));
        }
        if begins || inside {
            inside = !line.ends_with(';');
        } else if line.is_empty() {
            before = before.map(|(group, _)| (group, true));
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            // Something else begins: imports behind it are in an order of their own.
            before = None;
        }
    }
    complaints
}

/// The modules of the node as the head of lib.rs lists them: numbered lines, the names before the colon.
pub(super) fn module_order(lib: &str) -> Vec<String> {
    let items = lib.lines().filter_map(|line| line.strip_prefix("//! "));
    let numbered = items.filter(|item| item.starts_with(|c: char| c.is_ascii_digit()));
    let names = numbered.filter_map(|item| item.split_once("]:").map(|(names, _)| names));
    names.flat_map(|names| names.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

/// Modules of the node that name one which is below them. Modules that the list leaves out are free, tests too.
pub(super) fn modules(file: &File, order: &[String]) -> Vec<String> {
    let Some(inner) = file.path.strip_prefix("node/src/") else { return Vec::new() };
    let own = inner.split(['/', '.']).next().unwrap_or_default();
    let rank = |name: &str| order.iter().position(|module| module == name);
    let Some(own_rank) = rank(own).filter(|_| !is_test_file(inner)) else { return Vec::new() };
    let code = file.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut complaints = Vec::new();
    for (line, code) in code_lines(code) {
        for (place, _) in code.match_indices("crate::") {
            let named = words(&code[place + "crate::".len()..]).next().unwrap_or_default();
            if rank(named).is_some_and(|named_rank| named_rank > own_rank) {
                complaints.push(format!("{}:{line}: {own} names {named}, which is below it", file.path));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: impl Fn(&File) -> Vec<String>, path: &str, text: &str, want: &[&str]) {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        assert_eq!(rule(&file), want);
    }

    #[test]
    fn crate_outside_its_fence_is_found() {
        check(
            fences,
            "node/src/http.rs",
            "use openraft::Raft;\n",
            &["node/src/http.rs:1: openraft is named outside its fence"],
        );
        check(
            fences,
            "node/src/api.rs",
            "\nfn f(e: redb::Error) {}\n",
            &["node/src/api.rs:2: redb is named outside its fence"],
        );
        check(
            fences,
            "lab/src/plan.rs",
            "use serde_yaml as y;\n",
            &["lab/src/plan.rs:1: serde_yaml is named outside its fence"],
        );
        check(fences, "node/src/raft.rs", "use openraft::Raft;\n", &[]);
        check(fences, "node/src/raft.rs", "use crate::network::iroh::Admission; // iroh::Endpoint\n", &[]);
    }

    #[test]
    fn program_started_elsewhere_is_found() {
        let text = "use std::process::{Child, Command};\n";
        check(
            fences,
            "lab/src/runner.rs",
            text,
            &["lab/src/runner.rs:1: programs are started in lab/src/program.rs only"],
        );
        check(fences, "lab/src/program.rs", text, &[]);
        check(fences, "lab/src/runner/tests.rs", text, &[]);
        check(fences, "lab/src/main.rs", "use std::process::ExitCode;\nuse aspen_lab::cli::Command;\n", &[]);
    }

    #[test]
    fn imports_out_of_order_are_found() {
        check(import_order, "a.rs", "use serde::Serialize;\n\nuse std::io;\n", &["a.rs:3: Std after Crates"]);
        check(import_order, "a.rs", "use std::io;\nuse crate::b;\n", &["a.rs:2: no blank line before Own"]);
        let good = "use std::{\n    io,\n};\n\nuse serde::Serialize;\n\npub use self::b::C;\nuse super::d;\n\nmod e;\n\nuse std::f;\n";
        check(import_order, "a.rs", good, &[]);
    }

    #[test]
    fn module_that_names_one_below_it_is_found() {
        let order = module_order("//! 1. [`types`], [`limits`]: words.\n//! 2. [`api`]: see [`types`].\n");
        assert_eq!(order, ["types", "limits", "api"]);
        let rule = |file: &File| modules(file, &order);
        check(
            rule,
            "node/src/limits.rs",
            "use crate::api::A;\n",
            &["node/src/limits.rs:1: limits names api, which is below it"],
        );
        check(rule, "node/src/api.rs", "use crate::types::T;\n/// [`crate::http`]\n", &[]);
        check(rule, "node/src/limits.rs", "#[cfg(test)]\nmod tests {\n    use crate::api::A;\n}\n", &[]);
    }
}
