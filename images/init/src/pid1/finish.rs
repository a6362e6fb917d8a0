//! The final call: off where the platform can, otherwise a restart, which ends a microVM just as well.

use std::path::Path;

use aspen_init::limits::{KERNEL_LOG_BYTES_MAX, VALUE_READ_BYTES_MAX};
use aspen_init::texts::{head, listed};
use nix::sys::reboot::{RebootMode, reboot};

use super::console::Console;
use super::kernel_log;

/// Turns the machine off.
pub(super) fn go_off(console: &Console) -> ! {
    let line = head(Path::new("/proc/cmdline"), VALUE_READ_BYTES_MAX).unwrap_or_default();
    let has_acpi = Path::new("/sys/firmware/acpi").exists();
    let mode = choose(&line, &kernel_log::read(KERNEL_LOG_BYTES_MAX), has_acpi);
    console.drain();
    // It does not come back unless it is refused.
    let Err(errno) = reboot(mode);
    console.say(format_args!("cannot turn the machine off: {}", errno.desc()));
    console.drain();
    // The first process must not end. The kernel's panic is what is left: it restarts or stops the machine.
    std::process::exit(1)
}

/// Where the platform has no power switch, the kernel would only halt, and the hypervisor would run on for ever.
fn choose(command_line: &str, kernel_log: &str, has_acpi: bool) -> RebootMode {
    // By the keyboard controller, as on Firecracker, or by a triple fault: whoever writes it has no other way.
    let asks_for_restart = listed(command_line).iter().any(|word| matches!(*word, "reboot=k" | "reboot=t"));
    // What the kernel found in the tables: "ACPI: PM: (supports S0 S5)".
    let states = kernel_log.lines().rfind(|line| line.contains("ACPI: PM: (supports"));
    let can_power_off = states.map_or(has_acpi && !asks_for_restart, |states| states.contains(" S5"));
    if can_power_off { RebootMode::RB_POWER_OFF } else { RebootMode::RB_AUTOBOOT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, log: &str, has_acpi: bool, want: RebootMode) {
        assert_eq!(choose(line, log, has_acpi), want);
    }

    #[test]
    fn machine_without_a_power_switch_restarts() {
        let s5 = "a\nACPI: PM: (supports S0 S5)\nb";
        check("quiet", s5, true, RebootMode::RB_POWER_OFF);
        // The table decides also where somebody asked for both to be sure.
        check("reboot=k panic=1", s5, true, RebootMode::RB_POWER_OFF);
        check("reboot=k", "", false, RebootMode::RB_AUTOBOOT);
        check("", "", false, RebootMode::RB_AUTOBOOT);
        // Firecracker has ACPI tables without a way to turn off.
        check("reboot=k", "ACPI: PM: (supports S0)", true, RebootMode::RB_AUTOBOOT);
        // The line is long gone.
        check("", "", true, RebootMode::RB_POWER_OFF);
        check("reboot=k", "", true, RebootMode::RB_AUTOBOOT);
    }
}
