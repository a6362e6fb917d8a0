//! Every bound of the lab, with its reason.

pub mod bench;
pub mod control;
pub mod fabric;
pub mod image;
pub mod machines;
pub mod page;
pub mod rig;

use std::time::Duration;

// ---- scenario files ----

/// Longest scenario file, in bytes. The longest story so far has 2 KiB; a file beyond this is not a scenario,
/// and each mistake costs one more pass over the text.
pub const SCENARIO_BYTES_MAX: u64 = 64 * 1024;
/// Most values in a file, after aliases are followed: no file of that length holds more without aliases that
/// multiply.
pub const SCENARIO_VALUES_MAX: u32 = 64 * 1024;
/// Most mistakes that are printed; what follows is counted. More than a screen of them is not read anyway.
pub const MISTAKES_MAX: usize = 100;
/// Longest name of a scenario, in bytes: it is part of the run directory's name.
pub const SCENARIO_NAME_BYTES_MAX: usize = 40;
/// Longest `about`, in bytes: a paragraph, printed at the head of every report.
pub const ABOUT_BYTES_MAX: usize = 2_000;
/// Longest name of a node, in bytes: it is a host name and a file name, and columns of reports are made for
/// it.
pub const NODE_NAME_BYTES_MAX: usize = 32;
/// Most nodes of a cluster: what one machine runs, and what one /24 network with room to spare addresses.
pub const NODES_MAX: u16 = 50;
/// Most networks: one for Raft, and three kinds of clients.
pub const NETWORKS_MAX: usize = 4;
/// Shortest prefix of an IPv4 network, in bits: whatever the others are, most of 10.0.0.0/8 is left to be drawn from.
pub const SUBNET_V4_BITS_MIN: u8 = 16;
/// Longest prefix of an IPv4 network, in bits: it holds [`NODES_MAX`].
pub const SUBNET_V4_BITS_MAX: u8 = 24;
/// Shortest prefix of an IPv6 network, in bits: that of a site (RFC 4193); so is most of `fd00::/8`.
pub const SUBNET_V6_BITS_MIN: u8 = 48;
/// Longest prefix of an IPv6 network, in bits: it holds [`NODES_MAX`].
pub const SUBNET_V6_BITS_MAX: u8 = 120;
/// Smallest MTU of a network, in bytes: that of IPv6 (RFC 8200, 5), into which QUIC's first packets fit, too.
pub const MTU_BYTES_MIN: u32 = 1_280;
/// Largest MTU of a network, in bytes: jumbo frames.
pub const MTU_BYTES_MAX: u32 = 9_000;
/// Most faults in a file: a story longer than this is a soak test, which `every` and `times` express.
pub const FAULTS_MAX: usize = 100;
/// Most repetitions of one fault: one a second for the longest run would be 3,600, none of which a reader
/// could follow.
pub const FAULT_TIMES_MAX: u32 = 1_000;

/// Most lines of `links`: one for each pair of zones of the largest cluster, and then some.
pub const LINKS_MAX: usize = 1_000;
/// Longest latency and longest jitter in a file. Raft's patience is seconds; more cannot be told from a cut, and every
/// probe has to wait for it.
pub const LINK_LATENCY_MAX: Duration = Duration::from_secs(5);

// ---- time ----

/// Longest planned run. Its history must fit in memory while it is checked.
pub const PLANNED_DURATION_MAX: Duration = Duration::from_hours(1);
/// Shortest run of the load: below this even a healthy cluster may not answer once.
pub const LOAD_DURATION_MIN: Duration = Duration::from_secs(1);
/// How long the load goes on after the last fault's end where a scenario does not say: two elections and a
/// reconnection.
pub const LOAD_AFTER_FAULTS: Duration = Duration::from_secs(10);
/// Shortest time a fault lasts, a victim stays dead, or passes between repetitions: a probe over a cut is
/// given this long to come through.
pub const FAULT_LASTS_MIN: Duration = Duration::from_millis(500);
/// Shortest `workload.max_staleness`: less than a round trip allows nothing that a strict read does not.
pub const STALENESS_MIN: Duration = Duration::from_millis(100);
/// Shortest `recovers: within`: less than one heartbeat of the default cannot be told from none.
pub const RECOVERS_WITHIN_MIN: Duration = Duration::from_millis(100);

// ---- Raft timing ----

/// Heartbeat where a scenario does not say.
pub const HEARTBEAT_DEFAULT: Duration = Duration::from_millis(200);
/// Fewest entries between two snapshots that a scenario may ask for: each costs the disk two flushes.
pub const SNAPSHOT_ENTRIES_MIN: u32 = 10;
/// Most of them: the node's own number, which no run reaches.
pub const SNAPSHOT_ENTRIES_MAX: u32 = 1_000_000;
/// Shortest heartbeat: an fsync on a busy disk takes 8 to 28 ms.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(10);
/// Longest heartbeat: with the factor below, an election would take more than half a minute.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(10);
/// Shortest election timeout where a scenario does not say.
pub const ELECTION_MIN_DEFAULT: Duration = Duration::from_secs(1);
/// Longest election timeout where a scenario does not say.
pub const ELECTION_MAX_DEFAULT: Duration = Duration::from_secs(2);
/// Longest election timeout that a scenario may ask for.
pub const ELECTION_MAX: Duration = Duration::from_mins(1);
/// Shortest silence after which a scenario may have a voter replaced: the node's own bound.
pub const REPLACE_AFTER_MIN: Duration = Duration::from_secs(aspen_node::limits::REPLACE_AFTER_S_MIN);
/// Longest such silence of a scenario.
pub const REPLACE_AFTER_MAX: Duration = PLANNED_DURATION_MAX;
/// The shortest election timeout is at least this many heartbeats: one late heartbeat must not depose a
/// leader.
pub const ELECTION_HEARTBEATS_MIN: u32 = 3;

// ---- load ----

/// Clients where a scenario does not say.
pub const CLIENTS_DEFAULT: u32 = 8;
/// Most clients: beyond this the lab, not the cluster, is what gets measured.
pub const CLIENTS_MAX: u32 = 256;
/// Keys where a scenario does not say.
pub const KEYS_DEFAULT: u32 = 16;
/// Most keys: after settling, every key is read from every node.
pub const KEYS_MAX: u32 = 10_000;
/// Operations per second, over all clients, where a scenario does not say.
pub const RATE_DEFAULT: u32 = 200;
/// Most operations per second, over all clients: what three nodes on two cores still answer.
pub const RATE_MAX: u32 = 10_000;
/// Most operations that the clients may issue in a run (rate x duration): the history is held in memory,
/// about 200 bytes each, and checked there.
pub const OPERATIONS_MAX: u64 = 1_000_000;
/// Reads per second of each read-only client, one of which is pinned to every node: often enough to meet a
/// deposed leader that still answers, seldom enough to be no load.
pub const READER_RATE: u32 = 10;

// ---- the plan ----

/// Lowest port given to a node: above what services usually take.
pub const PORT_MIN: u16 = 10_001;
/// Highest port given to a node: the kernel's ephemeral ports begin at 32768 (ip-sysctl,
/// `ip_local_port_range`).
pub const PORT_MAX: u16 = 32_767;
/// Last byte of the first node's address in every network; the node at position i has this plus i.
pub const NODE_HOST_FIRST: u8 = 10;
/// Last byte of the lab's own address in every network.
pub const LAB_HOST: u8 = 1;

const _: () = {
    assert!(NODE_HOST_FIRST > LAB_HOST, "the lab's address is not a node's");
    assert!(NODE_HOST_FIRST as u16 + NODES_MAX <= 254, "every node has an address in one /24");
    assert!(SUBNET_V4_BITS_MAX + 8 <= 32 && SUBNET_V6_BITS_MAX + 8 <= 128, "and in every other network");
    // Of the networks that can be drawn, 65,536 and more, those that are given take a small part.
    assert!(NETWORKS_MAX * (1 << (24 - SUBNET_V4_BITS_MIN)) < 65_536 / 8, "few draws are needed");
    assert!(NETWORKS_MAX * (1 << (64 - SUBNET_V6_BITS_MIN)) < 1 << 24, "few draws are needed");
    // The second last byte of a hardware address is the network's number, the last one the node's or the lab's.
    assert!(NETWORKS_MAX < 256 && NODES_MAX < 255, "hardware addresses are distinct");
    assert!((PORT_MAX - PORT_MIN) as u32 > 100 * NODES_MAX as u32, "distinct ports are drawn in a few tries");
    assert!(CLIENTS_DEFAULT <= CLIENTS_MAX, "a default is allowed");
    assert!(KEYS_DEFAULT <= KEYS_MAX, "a default is allowed");
    assert!(RATE_DEFAULT <= RATE_MAX, "a default is allowed");
    assert!(SCENARIO_VALUES_MAX as u64 >= SCENARIO_BYTES_MAX, "a file without aliases never reaches it");
};

// ---- histories and their judgement ----

/// Longest line of a history, in bytes: a megabyte is far above any value that the workloads write, and
/// keeps a file that is not a history from being read into memory as one line.
pub const HISTORY_LINE_BYTES_MAX: u64 = 1 << 20;

/// Most operations in a history: a run of an hour at 9,000 operations a second. Each takes about 100 bytes
/// of memory while it is judged.
pub const HISTORY_OPERATIONS_MAX: u32 = 1 << 25;

/// Most text in one table of a history (all its values, say), in bytes: its offsets are u32.
pub const HISTORY_TEXT_BYTES_MAX: u32 = u32::MAX;

/// How long the linearizability check may search, unless the user says otherwise: what acceptance allows
/// for 10,000 operations with CAS on one key.
pub const CHECK_TIME_MAX: Duration = Duration::from_mins(1);

/// Most configurations that the search keeps at once, unless the user says otherwise. One takes 24 to 264
/// bytes by the number of operations in flight: between 24 and 264 MB.
pub const CHECK_CONFIGURATIONS_MAX: u32 = 1_000_000;

/// How long the check may look for the smallest conflict of one key. When it ends, what was found so far is
/// reported, and that it may be larger than needed.
pub const CHECK_WITNESS_TIME_MAX: Duration = Duration::from_secs(10);

/// Most operations in flight at once on one key that the search follows. Operations of unknown outcome
/// whose value somebody asks for stay in flight to the end, so this is more than the number of clients.
pub const CHECK_PENDING_MAX: u32 = 1024;

/// Most keys whose violation is explained; of the others only the name is reported. Nobody reads more.
pub const CHECK_VIOLATIONS_MAX: u32 = 16;

/// Most broken promises of Raft that a report lists; the rest is counted. Nobody reads more.
pub const RAFT_FINDINGS_MAX: usize = 16;

/// Most keys that a report lists because members differ in them; the rest is counted.
pub const DIFFERENCES_NAMED_MAX: usize = 16;

/// Most operations that a minority answered that a verdict tells in words; the rest is counted.
pub const MINORITY_ANSWERS_TOLD_MAX: usize = 10;

/// Most links that a receipt names; the rest is counted.
pub const LINKS_NAMED_MAX: usize = 6;

/// Longest time that `lab verify --time` may ask for: a search that did not end in a day will not.
pub const CHECK_TIME_ASKED_MAX: Duration = Duration::from_hours(24);

/// Most operations of one conflict that a text shows: two screens. The JSON has them all.
pub const REPORT_OPERATIONS_MAX: usize = 100;

const _: () = {
    // An index into the operations, or into a key's values, fits u32 with room for the absent value.
    assert!(HISTORY_OPERATIONS_MAX < u32::MAX - 2);
    // The search keeps one bit for each operation in flight, in whole words.
    assert!(CHECK_PENDING_MAX.is_multiple_of(64));
};

// ---- the fabric ----

/// Most ports of one switch: 64 machines and the lab itself. A scan of all ports per wake-up stays
/// below 5 us.
pub const FABRIC_PORTS_MAX: u16 = 65;

/// Longest frame that the switch carries, in bytes: 9000 of a jumbo frame, the Ethernet header and
/// a VLAN tag. What is longer is cut off by the kernel's read and then refused.
pub const FRAME_BYTES_MAX: usize = 9018;

/// Shortest frame that the switch carries, in bytes: an Ethernet header (IEEE 802.3, 3.1.1).
pub const FRAME_BYTES_MIN: usize = 14;

/// MTU of an interface where the scenario does not say, in bytes: what the Internet grants.
pub const MTU_BYTES: u32 = 1500;

/// A frame with as much in it as the usual network takes, in bytes. Where a network takes more, frames between nodes are not longer:
/// QUIC makes none.
pub const FULL_FRAME_BYTES: usize = (MTU_BYTES + FRAME_HEADER_BYTES) as usize;

/// Most frames in flight on one directed link, or, where it has a rate, most full ones: 100 ms at 1 Gbit/s. More would be a queue
/// that no real link has.
pub const LINK_QUEUE_FRAMES_MAX: usize = 8192;

/// Least queue of a link with a rate, in frames: the window with which a TCP connection begins is ten.
pub const LINK_QUEUE_FRAMES_MIN: u32 = 32;

/// What a link with a rate queues besides what is under way in its latency, in time: as much as a good router.
pub const LINK_QUEUE_TIME: Duration = Duration::from_millis(200);

/// Lowest rate of a link in a file, in bits per second: a full frame takes 1.2 s, and more cannot be told from a cut.
pub const LINK_BITS_PER_S_MIN: u64 = 10_000;

/// Highest rate of a link in a file, in bits per second: no host here is as fast.
pub const LINK_BITS_PER_S_MAX: u64 = 100_000_000_000;

/// Largest share of frames that overtake others, in parts per million.
pub const LINK_REORDER_MAX: u32 = PER_MILLION / 2;

/// Bytes that stand before the MTU's in a frame: an Ethernet header.
pub const FRAME_HEADER_BYTES: u32 = 14;

/// Most bytes in flight in the whole switch. A slow link is allowed to be slow, not to eat the host.
pub const FABRIC_QUEUE_BYTES_MAX: usize = 64 << 20;

/// Most frames taken from one port before the next port has its turn: a machine that floods must
/// not keep the others waiting longer than about 1 ms.
pub const PORT_BURST_FRAMES: usize = 64;

/// Most orders that wait for the switch thread. Each caller waits for its answer, so that this is
/// also the number of callers that do not block each other.
pub const SWITCH_ORDERS_MAX: usize = 16;

/// Longest wait for the switch thread to answer an order. It answers within one burst of every
/// port (65 x 64 frames, some 50 ms); a host that is this much slower cannot run a cluster.
pub const SWITCH_ANSWER_MAX: Duration = Duration::from_secs(10);

/// Longest delay that a link may have, on the wall. Raft's timeouts are seconds; more is a cut, on the slowest machines, too.
pub const LINK_DELAY_MAX: Duration = Duration::from_mins(2);

/// The whole of a probability, in parts per million.
pub const PER_MILLION: u32 = 1_000_000;

/// Longest interface name, in bytes: `IFNAMSIZ` less the final NUL (linux/if.h).
pub const IFACE_NAME_BYTES_MAX: usize = 15;

// ---- programs and machines ----

/// Longest end of a console or of an error output that is kept in memory, in bytes: the last
/// hundred lines or so.
pub const TAIL_BYTES_MAX: usize = 16 << 10;

/// Longest wait for a process to be gone after SIGKILL. The kernel needs milliseconds; a process
/// in uninterruptible sleep would need more, and is then a fault of the host.
pub const KILL_WAIT_MAX: Duration = Duration::from_secs(10);

/// Longest time that one probe may take, on the wall: the slowest link of a file, there and back, on the slowest machines.
pub const PROBE_MAX: Duration = Duration::from_mins(5);

/// Longest wait for a process to stop or to go on after SIGSTOP or SIGCONT.
pub const PAUSE_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often a condition without an event to wait for is looked at again.
pub const POLL_INTERVAL: Duration = Duration::from_millis(2);

// ---- the sandbox ----

/// Longest time from the start of the sandbox until it is ready: three program starts and a few
/// dozen system calls, 20 ms when idle.
pub const SANDBOX_START_MAX: Duration = Duration::from_secs(20);

/// Longest line of the control and event pipes that the sandbox itself reads, in bytes.
pub const SANDBOX_LINE_BYTES_MAX: usize = 4096;

/// How often PID 1 of the sandbox collects orphans.
pub const REAP_INTERVAL: Duration = Duration::from_secs(1);

// ---- lab doctor ----

/// Longest wait for an answer over a whole link: a SYN may be repeated twice on a busy host.
pub const DOCTOR_ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long a probe over a cut link waits: many round trips, and less than the first repetition.
pub const DOCTOR_SILENCE: Duration = Duration::from_millis(300);

/// Latency of the link that is slowed to try it out: far above what the host adds.
pub const DOCTOR_LATENCY: Duration = Duration::from_millis(20);

const _: () = {
    // Room for every machine's number in every name.
    assert!("lab-tap".len() + "65535".len() <= IFACE_NAME_BYTES_MAX);
    // A full frame of every machine fits the switch.
    assert!(MTU_BYTES_MAX as usize + FRAME_BYTES_MIN <= FRAME_BYTES_MAX);
    assert!(MTU_BYTES_MIN <= MTU_BYTES && MTU_BYTES <= MTU_BYTES_MAX);
    // One burst of full frames from every port fits the queue.
    assert!(PORT_BURST_FRAMES * MTU_BYTES as usize * FABRIC_PORTS_MAX as usize <= FABRIC_QUEUE_BYTES_MAX);
    assert!(PORT_BURST_FRAMES <= LINK_QUEUE_FRAMES_MAX);
};

// ---- clients and the run ----

/// How long a client waits for a TCP connection to a node: the lab's own links are never slow by accident.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a client waits for an answer: longer than a node's own bound, so that the node speaks first.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(7);
/// Largest answer that a client reads, in bytes: a digest of 10,000 log entries has 1 MiB.
pub const RESPONSE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long the nodes have to answer after their start, and the cluster to elect its first leader, all together.
pub const BOOT_WAIT_MAX: Duration = Duration::from_mins(1);
/// How long the load may go without its first answer before time is taken to begin all the same.
pub const FIRST_ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long the clients have to finish their last operation: one that is under way, and one that was due.
pub const DRAIN_MAX: Duration = Duration::from_secs(15);
/// How long links that have to be open are probed: three attempts over the slowest link of a file.
pub const REACH_MAX: Duration = Duration::from_secs(62);
/// Most attempts of a probe that has to be answered: on a busy host one may be late.
pub const PROBE_TRIES_MAX: usize = 3;
/// The same over a link that loses frames: at a loss of one half each way a probe is answered in one attempt of four, and
/// so many go unanswered on one link in 315.
pub const LOSSY_PROBE_TRIES_MAX: usize = 20;
/// So many of them are under way at once: one after the other, each lost one would cost a wait.
pub const LOSSY_PROBES_AT_ONCE: usize = 5;
/// Probes that are timed over each link before it is slowed, and again after: one of so many was not delayed by the host,
/// even where one in four waits for a processor.
pub const PROBES_TIMED: usize = 7;
/// Timed probes that have to be answered, of those above: of fewer, the quickest may be one that the host delayed.
pub const PROBES_ANSWERED_MIN: usize = 3;
/// What the host itself may add to the quickest round trip before a link is slowed: TCP over an idle switch takes 0.1 ms,
/// beside a busy cluster on two cores up to 2 ms.
pub const ROUND_TRIP_TOLERANCE: Duration = Duration::from_millis(2);
/// What the host may add to the mean time for which frames are held: with both cores busy one in a hundred leaves 8 ms
/// late.
pub const HELD_TOLERANCE: Duration = Duration::from_millis(20);
/// By how much a time that the kernel was told may differ from the planned one: it is rounded on the way through the pace, to
/// less than this.
pub const TOLD_TOLERANCE: Duration = Duration::from_micros(1);
/// The same for a rate: one part in so many, and so many bits per second on top.
pub const TOLD_RATE_PARTS: u64 = 1_000;
/// See [`TOLD_RATE_PARTS`]: netem counts whole bytes, which the greatest slowdown multiplies.
pub const TOLD_RATE_BITS: u64 = 8 * machines::SLOWDOWN_MAX as u64;
/// How many standard deviations the frames lost may be away from what a loss lets expect: 1 run in a million is.
pub const LOSS_SIGMA_MAX: f64 = 5.0;
/// How long a paused node is listened to for the answer that must not come: an answer takes milliseconds.
pub const PAUSE_SILENCE: Duration = Duration::from_millis(300);
/// What is written and not synced before a power cut, in bytes: of 2048 sectors some are lost, however many are kept.
pub const UNSYNCED_BYTES: usize = 1024 * 1024;
/// How long a role (leader, follower) is looked for when a fault is due.
pub const ROLE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a change of the members may take before its receipt is given up: an election may come between.
pub const MEMBERS_CHANGE_MAX: Duration = Duration::from_secs(15);
/// How long a restarted node may take until it serves again before its receipt is given up.
pub const RESTART_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a probe over a cut waits for the answer that must not come: far above any round trip of a healthy fabric.
pub const CUT_PROBE_WAIT: Duration = Duration::from_millis(500);
/// How often a condition of a run is looked at again.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How often each node is asked for its Raft state.
pub const OBSERVE_INTERVAL: Duration = Duration::from_millis(250);
/// How long an observation waits for its answer.
pub const OBSERVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Every node's state digest is asked for at each multiple of this: those are the ones that a node keeps.
pub const STATE_DIGEST_INTERVAL: u64 = aspen_node::limits::STATE_DIGEST_INTERVAL;
/// Most state digests that one look at a node asks for: a fast load must not turn observation into load.
pub const STATE_DIGESTS_PER_LOOK_MAX: u64 = 8;
/// Entries in each range of the log that is hashed while the run goes on: a second or more of load.
pub const LOG_DIGEST_ENTRIES: u64 = 1_000;
/// Longest line of observations.jsonl, in bytes: a state with every number at its longest has 400.
pub const OBSERVATION_LINE_BYTES_MAX: u64 = 4_096;
/// Most observations of a run: 50 nodes, four looks a second with their digests, for an hour and its margins. Each takes
/// about 150 bytes of memory while the run is judged.
pub const OBSERVATIONS_MAX: usize = 8_000_000;
/// How long the members have, once the load has ended, to hold the same state and let every key be read from each of
/// them: several elections and time-outs.
pub const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Entries at the end of the log that are compared between all members after settling: ten requests of a node's longest
/// range.
pub const SETTLE_LOG_ENTRIES_MAX: u64 = 10 * aspen_node::limits::LOG_DIGEST_RANGE_MAX;
/// How many keys are read from one member at the same time after settling.
pub const SETTLE_READS_IN_FLIGHT: usize = 8;
/// How often progress is reported.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// Answered operations below which a verdict is worth nothing.
pub const ANSWERED_MIN: u64 = 100;
/// How long a program of `--node-bin` may take to name its version.
pub const NODE_VERSION_MAX: Duration = Duration::from_secs(10);
/// How long a browser is watched after its start: one that cannot show a page has said so by then, and one that shows it
/// may go on for hours.
pub const BROWSER_START_MAX: Duration = Duration::from_secs(5);
/// How long the sandbox may take to end after its verdict.
pub const SANDBOX_END_MAX: Duration = Duration::from_secs(10);
/// Names of nodes that one side of a fault is told by; the rest is counted.
pub const NAMES_MAX: usize = 8;
/// How long a node has to stop after the run before it is killed.
pub const NODE_STOP_MAX: Duration = Duration::from_secs(18);

const _: () = {
    assert!(CLIENT_TIMEOUT.as_millis() > aspen_node::limits::OPERATION_TIMEOUT.as_millis());
    assert!(DRAIN_MAX.as_millis() > 2 * CLIENT_TIMEOUT.as_millis());
    // A cut lasts at least as long as its probes.
    assert!(CUT_PROBE_WAIT.as_millis() <= FAULT_LASTS_MIN.as_millis());
    // A range of the log that is hashed fits one answer.
    assert!(LOG_DIGEST_ENTRIES <= aspen_node::limits::LOG_DIGEST_RANGE_MAX);
    // A pause lasts longer than it is listened to.
    assert!(PAUSE_SILENCE.as_millis() < FAULT_LASTS_MIN.as_millis());
    assert!(PROBES_ANSWERED_MIN <= PROBES_TIMED);
    // A probe can wait for the slowest round trip of a file: latency and jitter, there and back.
    assert!(
        PROBE_TRIES_MAX as u128 * (4 * LINK_LATENCY_MAX.as_millis() + CUT_PROBE_WAIT.as_millis())
            <= REACH_MAX.as_millis()
    );
    // The lab has a port of its own.
    assert!(NODES_MAX < FABRIC_PORTS_MAX);
    assert!(NODE_STOP_MAX.as_millis() > aspen_node::limits::STOP_TIMEOUT.as_millis());
    // The appliance ends a node that does not stop, and says so.
    assert!(NODE_STOP_MAX.as_millis() > aspen_init::limits::NODE_STOP_MAX.as_millis());
};

// ---- lab selftest, lab explore ----

/// Most runs of one bug: at half a minute each, a night.
pub const SELFTEST_RUNS_MAX: u32 = 1_000;
/// Most seeds of one exploration: at a few seconds each in a simulation, two days.
pub const EXPLORE_SEEDS_MAX: u64 = 100_000;
/// Most runs at a time: each has three nodes that must not wait long for a core.
pub const TRIALS_AT_ONCE_MAX: u32 = 64;
/// Longest time that one run of the selftest may take: boot, first answer, drain, settling and stop at their bounds (2.5 minutes), and
/// the load and recovery of the scenarios that it uses (half a minute, when all is well).
pub const SELFTEST_RUN_MAX: Duration = Duration::from_mins(5);
/// The same of any scenario, whose plan may be of an hour, on machines that are slower than planned.
pub const EXPLORE_RUN_MAX: Duration = Duration::from_hours(24);
/// How often a run under way is looked at for its end, and the user's wish to stop for its beginning.
pub const TRIAL_LOOK_INTERVAL: Duration = Duration::from_millis(200);

const _: () = {
    assert!(
        SELFTEST_RUN_MAX.as_secs()
            > BOOT_WAIT_MAX.as_secs()
                + FIRST_ANSWER_MAX.as_secs()
                + DRAIN_MAX.as_secs()
                + SETTLE_MAX.as_secs()
                + NODE_STOP_MAX.as_secs()
    );
};
