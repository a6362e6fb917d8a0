//! Whether KVM runs a guest here, found out by letting it run the smallest one: without firmware, kernel or hypervisor.
//!
//! A device file that opens proves nothing: a host may have it and refuse what a guest needs. A guest that does not come to its
//! end keeps whoever runs it, so it is run by a process of its own.

use std::process::ExitCode;

use crate::limits::machines::KVM_TRIAL_MAX;
use crate::program::{Program, ProgramError, ProgramLog};

/// First argument of the process that runs the guest.
pub const TRIAL_PART: &str = "__kvm-trial";

/// Why KVM runs no guest.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// It refuses something, or the guest did something else.
    #[error("{0}")]
    Refused(String),
    /// It does not come to its end.
    #[error("the smallest guest did not come to its end within {KVM_TRIAL_MAX:?}")]
    Endless,
    /// Nothing could be tried.
    #[error(transparent)]
    Program(ProgramError),
}

/// Runs the smallest guest in a process of its own.
///
/// # Errors
/// [`KvmError`].
pub fn try_guest(log: &ProgramLog) -> Result<(), KvmError> {
    let trial = Program::new("/proc/self/exe").arg(TRIAL_PART).unprivileged();
    let ended = trial.run_short(KVM_TRIAL_MAX, log);
    match ended {
        Ok(_) => Ok(()),
        Err(ProgramError::Failed { stderr, .. }) => Err(KvmError::Refused(stderr.trim().to_owned())),
        Err(ProgramError::TimedOut { .. }) => Err(KvmError::Endless),
        Err(error) => Err(KvmError::Program(error)),
    }
}

/// That process: says on its error output why there was no guest.
#[allow(clippy::print_stderr, reason = "its parent reads it there")]
pub fn trial() -> ExitCode {
    match guest::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod guest {
    pub(super) fn run() -> Result<(), String> {
        Err("the guest is for x86_64 only".to_owned())
    }
}

#[cfg(target_arch = "x86_64")]
mod guest {
    use std::fmt::Display;

    use kvm_bindings::kvm_userspace_memory_region;
    use kvm_ioctls::{Kvm, VcpuExit, VmFd};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

    /// What it says, and where.
    const WORD: u8 = b'K';
    const PORT: u16 = 0xe9;
    /// 16-bit code (Intel SDM volume 2).
    const CODE: [u8; 5] = [
        0xb0, WORD, // mov al, WORD
        0xe6, 0xe9, // out PORT, al
        0xf4, // hlt
    ];
    /// Where its code is, and how much memory it has: a page.
    const START: u64 = 0x1000;
    const MEMORY_BYTES: usize = 0x1000;

    pub(super) fn run() -> Result<(), String> {
        let kvm = Kvm::new().map_err(failed("/dev/kvm does not open"))?;
        let machine = kvm.create_vm().map_err(failed("KVM makes no machine"))?;
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(START), MEMORY_BYTES)]);
        let memory = memory.map_err(failed("there is no memory for a guest"))?;
        memory.write_slice(&CODE, GuestAddress(START)).map_err(failed("there is no room for the code"))?;
        give(&machine, &memory)?;
        let mut processor = machine.create_vcpu(0).map_err(failed("KVM makes no processor"))?;
        let mut special = processor.get_sregs().map_err(failed("KVM does not show its registers"))?;
        (special.cs.base, special.cs.selector) = (0, 0);
        processor.set_sregs(&special).map_err(failed("KVM does not set its registers"))?;
        let mut registers = processor.get_regs().map_err(failed("KVM does not show its registers"))?;
        // Bit 1 is always set.
        (registers.rip, registers.rflags) = (START, 2);
        processor.set_regs(&registers).map_err(failed("KVM does not set its registers"))?;
        let mut said = Vec::new();
        loop {
            match processor.run().map_err(failed("KVM does not run its processor"))? {
                VcpuExit::IoOut(PORT, bytes) => said.extend_from_slice(bytes),
                VcpuExit::Hlt if said == [WORD] => return Ok(()),
                exit => return Err(format!("the smallest guest ended with {exit:?}, having said {said:?}")),
            }
        }
    }

    fn failed<E: Display>(what: &'static str) -> impl Fn(E) -> String {
        move |error| format!("{what}: {error}")
    }

    #[allow(unsafe_code, reason = "KVM writes to memory behind the back of the compiler")]
    fn give(machine: &VmFd, memory: &GuestMemoryMmap<()>) -> Result<(), String> {
        let address =
            memory.get_host_address(GuestAddress(START)).map_err(failed("there is no such memory"))?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: START,
            memory_size: MEMORY_BYTES as u64,
            userspace_addr: address as u64,
        };
        // SAFETY: the memory is mapped as long as `memory` lives, which is longer than any processor of the machine runs, and
        // nothing else of the process looks at it in that time.
        unsafe { machine.set_user_memory_region(region) }.map_err(failed("KVM does not take the memory"))
    }
}
