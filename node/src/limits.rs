//! Every bound of the node, with its reason. What can be checked between them is checked here, at compile time.

use std::time::Duration;

/// A MiB, in bytes.
pub const MIB: u64 = 1024 * 1024;
/// Longest key, in bytes. Keys are held in memory by scans and digests.
pub const KEY_BYTES_MAX: u32 = 1024;
/// Longest value, in bytes: a value travels in one Raft message with its neighbours.
pub const VALUE_BYTES_MAX: u32 = 1024 * 1024;
/// Largest encoded command, in bytes. An entry cannot be split over messages.
pub const COMMAND_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// Entries that one `AppendEntries` carries, in encoded bytes; the first one always fits.
pub const APPEND_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// irpc's own bound on one message, in bytes (`irpc::rpc::MAX_MESSAGE_SIZE`).
pub const RPC_MESSAGE_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Largest HTTP body, in bytes: two values of the longest kind in base64, and room for their envelope.
pub const HTTP_BODY_BYTES_MAX: u32 = 8 * 1024 * 1024;
/// Bytes of bodies that are held at once, over all requests: for what is asked at the same time as may be, a quarter of a MiB each. Decoded
/// they may take as much again.
pub const BODIES_BYTES_MAX: u32 = 256 * 1024 * 1024;

/// Bytes that a request has before its body, at most: a key of the longest kind, with each byte as three, fits with room to spare.
pub const HTTP_HEAD_BYTES_MAX: u32 = 64 * 1024;
/// Connections of clients at once, further ones wait until the kernel refuses them: as many as may follow changes, and as many again.
pub const HTTP_CONNECTIONS_MAX: u32 = 4_000;
/// How long a connection may be without a request, and a request without its end of the head.
pub const HTTP_IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// How long the body of a request may take: the largest one with 280 kB/s.
pub const HTTP_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take nothing of what it is sent: its connection is closed then.
pub const HTTP_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a TLS handshake may take, in which a client that is far away needs two round trips.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a file with certificates or a key: all that browsers trust are a quarter of it.
pub const TLS_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// How often it is looked whether the files of tokens and certificates have changed.
pub const CREDENTIALS_LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Keys that one `SetMulti` or `DeleteMulti` names.
pub const KEYS_PER_COMMAND_MAX: u32 = 100;
/// Comparisons of a transaction, and operations of each of its branches.
pub const TRANSACTION_OPERATIONS_MAX: u32 = 128;
/// Bytes of keys and values that a transaction answers: it travels as one message to the node that was asked.
pub const ANSWER_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// Longest name of a vault, in bytes: it stands in paths and in every command.
pub const VAULT_NAME_BYTES_MAX: u32 = 64;
/// Vaults and leases around a command that is read: one of each may be, and with one too many it is to be told which bound it breaks.
pub const COMMAND_DEPTH_MAX: u32 = 3;
/// Bytes that a record costs in an answer besides its key and value: revisions, version, names in JSON.
pub const RECORD_BYTES: u64 = 96;
/// Vaults of a cluster: their list is one answer.
pub const VAULTS_MAX: u32 = 1_000;

/// Entries of a scan that names no limit.
pub const SCAN_LIMIT_DEFAULT: u32 = 1_000;
/// Entries of one page of a scan, at most.
pub const SCAN_LIMIT_MAX: u32 = 10_000;
/// Bytes of keys and values in one page of a scan: a page must fit comfortably in memory on both sides.
pub const SCAN_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// Leases that there may be: their leader looks at all of them.
pub const LEASES_MAX: u32 = 10_000;
/// Keys that end with one lease, at once.
pub const LEASE_KEYS_MAX: u32 = 1_000;
/// Shortest time to live of a lease, in milliseconds: a change of leaders takes as long.
pub const LEASE_TTL_MS_MIN: u64 = 1_000;
/// Longest one: a month.
pub const LEASE_TTL_MS_MAX: u64 = 30 * 86_400 * 1_000;
/// How often a leader looks whether a lease is over.
pub const LEASE_LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Ends of leases that a leader proposes at once: as many as it takes into a few batches of its log.
pub const LEASE_ENDS_AT_ONCE: u32 = 256;

/// Those who may follow changes at once: each costs a connection, and a place.
pub const WATCHERS_MAX: u32 = 2_000;
/// Changes that are held in memory for those who follow them, in MiB, unless the settings say otherwise: some 70,000
/// of 256 bytes.
pub const WATCH_HISTORY_MIB_DEFAULT: u64 = 32;
/// As many as can be asked for, in MiB.
pub const WATCH_HISTORY_MIB_MAX: u64 = 16 * 1024;
/// Bytes that a change takes besides its keys and values.
pub const CHANGE_BYTES: u64 = 200;
/// Bytes of changes that one look takes; the last one may be the one that has more.
pub const WATCH_BATCH_BYTES: u64 = 64 * 1024;
/// Bytes of values that the keys of one entry held before after which no more are noted.
pub const PREVIOUS_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How long a client that has lost a node looks for another one that tells it what comes next.
pub const WATCH_RETRY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it waits before it asks all of them again.
pub const WATCH_RETRY: Duration = Duration::from_millis(500);
/// How long somebody who is told so waits for a word.
pub const WATCH_SILENCE_MAX: Duration = Duration::from_secs(15);
/// How often somebody is told that there was nothing to follow: a connection that carries nothing for longer may be dead.
pub const WATCH_PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Operations under way at once; the next one is refused with 429 rather than queued without end.
pub const OPERATIONS_IN_FLIGHT_MAX: u32 = 1_000;
/// How long an operation may take before its client is told that the outcome is unknown. Longer than the longest
/// default election, so that an operation which finds no leader survives one change of leaders.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an operation that could not be handed to a leader waits before it tries again, unless the leader changes.
pub const LEADER_RETRY: Duration = Duration::from_millis(100);
/// How long an operation waits for a leader to be known before it is refused. Longer than a default election.
pub const LEADER_WAIT: Duration = Duration::from_secs(3);
/// Longest bound on the age of a read, in milliseconds: a day. Whoever takes more takes anything.
pub const MAX_STALENESS_MS_MAX: u64 = 86_400 * 1_000;
/// How long a read whose age is bounded waits for somebody to confirm what it sees: as long as others wait for a leader.
pub const FRESHNESS_WAIT: Duration = LEADER_WAIT;
/// How long the one who asks for all of those waits for its answer before the next one asks: longer than any round trip, so what
/// does not come then is lost.
pub const FRESHNESS_ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is looked how much room the disk has: at 100 MB/s 50 MB go in between.
pub const DISK_LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Room on the disk that is kept in reserve, in MiB: more than what comes between two looks.
pub const DISK_RESERVE_MIB_DEFAULT: u64 = 64;
/// Largest reserve that can be asked for, in MiB: a TiB.
pub const DISK_RESERVE_MIB_MAX: u64 = 1024 * 1024;
/// How long the state machine waits before it tries again to write on a disk that is full.
pub const DISK_FULL_WAIT: Duration = Duration::from_millis(500);
/// After which time a node is started again whose disk was full, and after which one that has not come far before.
pub const DISK_FULL_RESTART: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// The part of a lease that a leader does not use: its own clock and the others' need not run equally fast.
pub const LEASE_MARGIN: u32 = 10;
/// Marks that are kept of both clocks of a lease, two leases long: one of them is a lease old, and none much older.
pub const LEASE_MARKS: u32 = 16;
/// How often two clocks are looked at for one moment at which both were: a thread can be held up between them.
pub const LEASE_CLOCK_LOOKS: u32 = 3;
/// How often a node that has failed by a fault of its own starts again within [`RESTART_WINDOW`]: a fault that comes by chance does not
/// come so often.
pub const RESTARTS_MAX: u32 = 3;
/// See [`RESTARTS_MAX`].
pub const RESTART_WINDOW: Duration = Duration::from_mins(10);
/// How long a leader that stops waits for its successor: it takes a few round trips, or the successor stops as well.
pub const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long until a successor that has not taken over is asked again: the message may be lost with the connection that it was sent on.
pub const HAND_OVER_AGAIN: Duration = Duration::from_millis(250);
/// How long a stop may take: what is under way is answered, then the stores are closed.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long closed connections are waited for at a stop: on a healthy network it takes less than a second.
pub const ENDPOINT_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the runtime waits for its blocking threads at the very end.
pub const RUNTIME_STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the HTTP server may take for requests under way at a stop.
pub const HTTP_DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a peer that could not be dialled is left alone: at first, and at most. Jitter takes up to half of it away.
pub const DIAL_BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(400)];
/// How long a QUIC handshake may take. Longer than an RPC: a dial goes on while RPCs give up.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Round trip that QUIC assumes of an unknown path (RFC 9002, 6.2.2 has 333 ms). A handshake that meets a node which
/// is just starting is repeated after three of them.
pub const PEER_INITIAL_RTT: Duration = Duration::from_millis(100);
/// How often an idle connection to a peer says that it is alive.
pub const PEER_KEEP_ALIVE: Duration = Duration::from_millis(500);
/// Silence after which a connection to a peer is given up and dialled again; QUIC alone would wait half a minute.
pub const PEER_IDLE_TIMEOUT: Duration = Duration::from_millis(2_500);
/// How long a connection to a peer over which nothing is sent is kept: longer than anything that is done again and again waits.
pub const PEER_UNUSED_MAX: Duration = Duration::from_mins(1);
/// Requests of one peer served at once; further ones wait in its QUIC streams.
pub const PEER_REQUESTS_MAX: u32 = 256;
/// Streams of one peer's connection at once. Further requests wait at the peer: what is begun has to fit into the connection's window, or
/// no stream would come to its end.
pub const PEER_STREAMS_MAX: u32 = 200;
/// The window of a stream, in bytes (the default of QUIC's implementation, noq).
pub const PEER_STREAM_WINDOW_BYTES: u32 = 1_250_000;
/// Clients over QUIC at once: each is a connection on Raft's own endpoint.
pub const CLIENT_CONNECTIONS_MAX: u32 = 50;
/// Clients over QUIC at once that have not shown a token yet, where the node has one: they take nobody's place.
pub const CLIENT_STRANGERS_MAX: u32 = 64;
/// How long a client over QUIC may take to show it: a few round trips over the slowest link, and a person's patience.
pub const CLIENT_TOKEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams that one of them has at once.
pub const CLIENT_STREAMS_MAX: u32 = 10;
/// How long a client waits at its end until the nodes know that it is gone.
pub const CLIENT_CLOSE_TIMEOUT: Duration = Duration::from_millis(200);
/// Streams that wait to be served.
pub const CLIENT_STREAMS_WAITING_MAX: u32 = 64;
/// Secrets that a cluster has at once: the present one, and the one that takes its place.
pub const SECRETS_MAX: u32 = 2;
/// Refused connections are logged at most this often; all are counted.
pub const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Largest request to join, in bytes: a proof, a key and two addresses. Who sends it is a stranger yet.
pub const JOIN_REQUEST_BYTES_MAX: usize = 1_024;
/// Largest answer to it, in bytes: every member with its key and addresses.
pub const JOIN_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long a newcomer is heard. Longer than the operation that lets it in.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a newcomer may take to say what it wants.
pub const JOIN_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Strangers that are heard at once, before they have proven anything: each may fill its window. Further ones are told to come again.
pub const STRANGERS_MAX: u32 = 16;
/// Newcomers that have proven that they know the secret, and wait for their answer.
pub const JOINERS_MAX: u32 = 64;
/// How often in one round a newcomer is sent on to another node: to the leader, and to the next one.
pub const JOIN_HOPS_MAX: u32 = 4;
/// Largest number of a node that is chosen for it or that it chooses when it joins: any program can hold it.
pub const JOIN_ID_MAX: u64 = u32::MAX as u64;
/// How long a node that hears of no leader waits before it asks the others who belongs to the cluster now.
pub const REUNION_INTERVAL: Duration = Duration::from_secs(5);
/// Pauses between a newcomer's tries, the first and the longest one.
pub const JOIN_RETRY: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];
/// How often a newcomer says why nobody lets it in.
pub const JOIN_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Members that a ticket names: one of them is enough, and it is to fit into a line.
pub const TICKET_PEERS_MAX: u32 = 16;

/// How often a node says by gossip where it is; drawn between four and six fifths of it, so that nodes do not speak at once.
pub const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(10);
/// A node that speaks more often than this is not listened to, unless it says something new.
pub const ANNOUNCE_INTERVAL_MIN: Duration = Duration::from_millis(500);
/// Announcements that wait to be read; a node that falls further behind takes part in the gossip anew.
pub const ANNOUNCE_QUEUE_MAX: usize = 256;
/// How long a node that has lost the gossip waits before it takes part anew.
pub const GOSSIP_RETRY: Duration = Duration::from_secs(1);

/// Relays of a node, as many as iroh's makers have: each connection keeps a path by each of them, of the 8 that it may have.
pub const RELAYS_MAX: u32 = 4;
/// Longest URL of a relay, in bytes: behind `relay=` it is one string of a TXT record (RFC 6763, 6.1).
pub const SERVER_URL_BYTES_MAX: usize = 249;
/// Longest part of a domain, in bytes (RFC 1035, 2.3.4).
pub const DNS_LABEL_BYTES_MAX: usize = 63;
/// Longest domain below which keys are looked up, in bytes: what stands before it has 60 of the 253 that a name may have.
pub const DNS_ORIGIN_BYTES_MAX: usize = 193;
/// A peer is looked up again after so long at the soonest: one that is down is dialled several times a second.
pub const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
/// Addresses that are taken from one answer: each is sent a packet with every dial, and anybody may have given the answer.
pub const LOOKED_UP_ADDRESSES_MAX: usize = 16;
/// Addresses that a node publishes which has not said at which one it is reached: a signed record has 1000 bytes at most, and with a
/// long URL of a relay there is room for so many.
pub const PUBLISHED_ADDRESSES_MAX: usize = 8;

/// How often the leader looks whether a learner should vote.
pub const PROMOTION_INTERVAL: Duration = Duration::from_millis(500);
/// How long a change of the members waits for those that may only not have answered yet.
pub const MEMBER_WAIT: Duration = Duration::from_millis(1_500);
/// How long Raft may take to end after nothing can be proposed any more; if it has not, that was not its doing.
pub const PROPOSER_END_TIMEOUT: Duration = Duration::from_secs(1);
/// Entries that a learner may lack and be promoted: it has them before its vote is needed.
pub const PROMOTION_LAG_MAX: u64 = 100;
/// How long voters stay who they are before the leader changes them again by itself: what comes of one change is seen before
/// another.
pub const PROMOTION_COOL_DOWN: Duration = Duration::from_secs(3);
/// Shortest silence after which a voter may be replaced, in seconds: longer than any election.
pub const REPLACE_AFTER_S_MIN: u64 = 5;
/// Longest such silence, in seconds: a week.
pub const REPLACE_AFTER_S_MAX: u64 = 7 * 86_400;

/// Longest name of a region or a zone, in bytes: it stands in every answer that names the members.
pub const LABEL_BYTES_MAX: u32 = 64;
/// Regions that can be preferred, one after the other: there are no more continents than that.
pub const PREFERRED_REGIONS_MAX: u32 = 16;
/// Longest word of a node about itself, in bytes: two labels and the regions that it prefers, and as much again.
pub const ABOUT_BYTES_MAX: usize = 2 * (2 + PREFERRED_REGIONS_MAX as usize) * (LABEL_BYTES_MAX as usize + 2);
/// How long that word may take once there is a connection, and how long the one who gives it waits until it was heard.
pub const ABOUT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often each member is asked what it says of itself: that changes only when it is started again.
pub const ABOUT_INTERVAL: Duration = Duration::from_secs(10);
/// How often one is asked that has not said it yet; drawn between four and six fifths of it, so that nodes do not ask at once.
pub const ABOUT_RETRY: Duration = Duration::from_secs(1);
/// How many are asked at once: each costs a handshake.
pub const ABOUT_ASKED_AT_ONCE: usize = 8;

/// Starts that a node remembers besides the present one. One that was put back and is started more often than that while nobody can
/// tell passes for what it was.
pub const STARTS_KEPT_MAX: u32 = 64;
/// Longest greeting of a member, in bytes: as many starts, and the present one, of three numbers.
pub const GREETING_BYTES_MAX: usize = 2048;
/// How often a node takes down that it is still there: what is put back to longer ago is noticed, and each costs a write.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(5);
/// How long two members may take to greet each other once there is a connection.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
/// Folders that hold what a node had which came back as a new member: each may be as large as all that it has.
pub const SET_ASIDE_MAX: u32 = 4;

/// How long a leader leads before it hands leadership to a preferred region: as seldom does leadership move for that reason,
/// whoever leads.
pub const HAND_OVER_LED_MIN: Duration = Duration::from_secs(10);
/// How long a voter has been well, without a break, before leadership is handed to it: a region that comes and goes is left alone.
pub const HAND_OVER_WELL_MIN: Duration = Duration::from_secs(5);
/// Entries that it may lack all the while: what is under way over a long link under load. It has all of them before it is elected.
pub const HAND_OVER_LAG_MAX: u64 = 1_000;
/// How long a node does not hand leadership over again: where that fails, nobody leads for as long as an election takes.
pub const HAND_OVER_COOL_DOWN: Duration = Duration::from_secs(30);
/// How long it waits for its successor: round trips over the longest links, and a sync of the disk.
pub const HAND_OVER_WAIT: Duration = OPERATION_TIMEOUT;

/// How often the leader looks which members answer.
pub const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// How long the HTTP interface of a member that does not answer is waited for, once to take the connection and once to answer.
pub const HEALTH_PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// Looks in a row at which a member was late that is called slow, or answered its clients only that is called cut off: once is none.
pub const LOOKS_MIN: u32 = 3;

/// Bytes that a connection may send before they are read, while nobody knows whose it is.
pub const STRANGER_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// The same of a peer. Requests are read one after the other, and each may have filled its stream's window, 1.25 MB: what is read
/// must not wait for room that others take.
pub const PEER_WINDOW_BYTES: u32 = 256 * 1024 * 1024;
/// Streams in one direction that a peer may have open: gossip has one for each topic.
pub const PEER_ONE_WAY_STREAMS_MAX: u32 = 8;

/// Packets that a peer may leave unacknowledged: most acknowledgements then travel with answers.
pub const PEER_ACKS_AHEAD: u32 = 10;
/// How long it may leave them so.
pub const PEER_ACK_DELAY: Duration = Duration::from_millis(5);
/// AppendEntries requests that a peer is sent before it has answered the first of them.
pub const APPENDS_AHEAD_MAX: u32 = 16;
/// Bytes of entries in them after which no further one is sent.
pub const APPEND_BYTES_AHEAD_MAX: u64 = 4 * 1024 * 1024;
/// How many times as long as to a heartbeat an answer to entries may take, which comes after a sync of the peer's disk: one that
/// stalls for half a second costs nothing.
pub const APPEND_PATIENCE: u32 = 5;
/// How long a peer may wait to hear what is committed, in case that entries can say it.
pub const APPEND_HOLD: Duration = Duration::from_millis(1);
/// Bytes a second that a link carries at least: entries may take as long as that, besides the time limit of an answer.
pub const APPEND_RATE_MIN: u64 = 256 * 1024;

/// Proposals under way, unless one waits for [`PROPOSAL_WAIT_MAX`]: what comes meanwhile is proposed together.
pub const PROPOSALS_AHEAD_MAX: u32 = 2;
/// How long a proposal waits at most for earlier ones.
pub const PROPOSAL_WAIT_MAX: Duration = Duration::from_millis(5);
/// Commands of one proposal.
pub const PROPOSAL_COMMANDS_MAX: u32 = 1_024;
/// Bytes of one proposal, unless its first command alone is larger.
pub const PROPOSAL_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// Rows of removed vaults that one transaction of the state machine deletes: a large vault takes no write's time.
pub const SWEPT_ROWS_MAX: u32 = 1_000;
/// Bytes of their values after which it stops before: a large value has many pages.
pub const SWEPT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Entries that one transaction of the state machine applies.
pub const APPLY_BATCH_MAX: u32 = 1_024;
/// Bytes of entries from which on such a transaction takes no further one: what it changes is in memory and in the journal at once.
pub const APPLY_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Pages that the state machine's writer keeps in memory, in KiB: those of tens of thousands of small keys.
pub const STATE_CACHE_KIB: u32 = 16 * 1024;
/// How often the state machine's journal is emptied into its database while it is written: pages that are written again
/// and again reach the database once.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes in the journal after which it is emptied sooner: the disk takes them in a moment, and the log hardly waits behind them.
pub const CHECKPOINT_BYTES: u64 = 8 * 1024 * 1024;
/// A journal that is longer, in bytes, begins anew as soon as all of it is in the database.
pub const JOURNAL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How often a node looks whether its log has grown enough for a snapshot.
pub const COMPACTION_INTERVAL: Duration = Duration::from_millis(500);
/// How often a node says that its log cannot be shortened.
pub const COMPACTION_WARNING_INTERVAL: Duration = Duration::from_mins(10);
/// Entries after which a snapshot is made, unless the settings say otherwise.
pub const SNAPSHOT_ENTRIES_DEFAULT: u64 = 1_000_000;
/// Bytes of log after which a snapshot is made, unless the settings say otherwise.
pub const SNAPSHOT_LOG_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;
/// Largest snapshot, in bytes, unless the settings say otherwise. It is on disk, never in memory.
pub const SNAPSHOT_BYTES_MAX_DEFAULT: u64 = 64 * 1024 * 1024 * 1024;
/// Largest setting of the three above, in their units (entries, MiB): as bytes it still fits 64 bits.
pub const SNAPSHOT_SETTING_MAX: u64 = 1 << 40;
/// Rows that one commit of the log removes of what was purged: new entries do not wait for a long purge.
pub const PURGE_ROWS_MAX: u64 = 2_048;
/// Most milliseconds that a simulated disk takes for what a store gives it at once: as a busy one does, so that operations meet on it.
pub const SIMULATED_DISK_MS_MAX: u64 = 10;

/// A part of a snapshot that is sent or found as a whole, in bytes. Small, since a page that has changed costs one.
pub const SNAPSHOT_CHUNK_BYTES: u32 = 64 * 1024;
/// Chunks whose digests travel together; which of them are missing is told in 64 bits.
pub const SNAPSHOT_REGION_CHUNKS: u32 = 64;
/// Regions whose digests are sent ahead, so that a long round trip is not waited for at each.
pub const SNAPSHOT_REGIONS_AHEAD: u32 = 4;
/// How long either side of a snapshot's transfer waits for the other's next word.
pub const SNAPSHOT_STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a receiver that installs a snapshot says that it is still at it.
pub const SNAPSHOT_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Pages of the database that are copied into a snapshot at a time.
pub const SNAPSHOT_STEP_PAGES: u32 = 256;
/// Bytes of a snapshot that may wait in memory to be written to the disk while it is built.
pub const SNAPSHOT_FLUSH_BYTES: u64 = 16 * 1024 * 1024;

/// How much of a file is written at once that has to be written once more, in bytes.
pub const REWRITE_BYTES: u32 = 1024 * 1024;
/// How long a snapshot that could not be built is waited with: the disk may be full.
pub const SNAPSHOT_RETRY: Duration = Duration::from_secs(10);

/// Backups that are taken from a node at once: each may keep a snapshot on its disk that a newer one has replaced.
pub const BACKUPS_MAX: u32 = 4;
/// How long a backup waits for its snapshot and the check of it: one of the largest kind, at 50 MB/s.
pub const BACKUP_WAIT: Duration = Duration::from_mins(30);
/// How long a client waits for a backup to begin: longer than the node may take to confirm and to make it.
pub const BACKUP_BEGIN_TIMEOUT: Duration = Duration::from_mins(31);
/// How long either side of a backup waits for the other's next step, before it gives the backup up.
pub const BACKUP_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a backup that are taken in a second, at least: whoever is slower gives up the place of another.
pub const BACKUP_RATE_MIN: u64 = 1024 * 1024;
/// Chunks of a snapshot that are read ahead of a client that takes a backup.
pub const BACKUP_CHUNKS_AHEAD: usize = 16;
/// How often a snapshot may be replaced by a newer one before it could be opened.
pub const BACKUP_TRIES_MAX: u32 = 3;
/// Longest first line of a backup, in bytes: numbers, an id and two digests.
pub const BACKUP_HEADER_BYTES_MAX: usize = 4_096;
/// Bytes of a backup's file that are read at a time.
pub const BACKUP_READ_BYTES: usize = 256 * 1024;
/// How many terms, at least and less than, a cluster made of a backup is ahead of the one that the backup was taken from: no cluster
/// has so many elections, and no two restores draw the same number by accident.
pub const RESTORED_TERMS_AHEAD: [u64; 2] = [1 << 20, 1 << 21];
/// How many revisions it is ahead: no cluster writes so many after a backup, so that no revision of the one is taken for one of the
/// other, and no log for a log.
pub const RESTORED_REVISIONS_AHEAD: u64 = 1 << 40;

/// Operations waiting for the log's writer. openraft has a few under way at once; the rest is slack.
pub const LOG_QUEUE_MAX: usize = 4_096;
/// How often the log's last committed entry is written while entries are appended: it may be behind, and spares a start some
/// waiting.
pub const COMMITTED_INTERVAL: Duration = Duration::from_millis(100);
/// Entries kept in memory after they are durable, in bytes, so that replication does not read the disk.
pub const LOG_CACHE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Pages of the log's file that are kept in memory: entries are read from it only for a member that is far behind.
pub const LOG_PAGES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Connections of the state machine's read pool.
pub const READ_POOL_SIZE: u32 = 8;
/// Indexes that one `/raft/log/digest` answers for.
pub const LOG_DIGEST_RANGE_MAX: u64 = 10_000;
/// Every such index leaves its state digest behind.
pub const STATE_DIGEST_INTERVAL: u64 = 64;
/// Remembered state digests: the last so many multiples of the interval.
pub const STATE_DIGESTS_MAX: u64 = 4_096;

/// Nodes of which a node keeps where they are, gone ones included: what it is told of further ones takes the place of what it was told.
pub const MAX_PEERS: u32 = 10_000;
/// Members of a cluster, learners included, and peers that the settings name.
pub const PEERS_MAX: u32 = 100;
/// Voters among them: each write waits for a majority of them.
pub const VOTERS_MAX: u32 = 100;
/// Largest file that holds a secret, in bytes: a key, a cluster's secret or a token is shorter.
pub const PRIVATE_FILE_BYTES_MAX: u64 = 256;
/// Shortest token, in bytes: nobody guesses so many.
pub const TOKEN_BYTES_MIN: usize = 32;
/// Longest reason that is read from the mark of a data directory that was put back, in bytes: it goes into an error.
pub const RETIRED_REASON_BYTES_MAX: u64 = 1_024;

/// How long a client waits for a connection to a node.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long `aspen cluster status` waits for each member: one that hangs is to be seen, not waited for.
pub const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// How long a client waits for an answer: longer than any operation of a node takes.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer that a client takes, in bytes: a page of a scan whose bytes all have to be escaped.
pub const RESPONSE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How often in one request a client is sent on to another leader.
pub const LEADER_HOPS_MAX: u32 = 3;
/// Clients of one benchmark: each has a connection, and an open file.
pub const BENCH_CLIENTS_MAX: u32 = 10_000;
/// Keys of one benchmark: their names have ten digits.
pub const BENCH_KEYS_MAX: u64 = 10_000_000_000;
/// Longest benchmark, in seconds.
pub const BENCH_SECONDS_MAX: u64 = 86_400;

const _: () = {
    assert!(OPERATION_TIMEOUT.as_secs() < ANSWER_TIMEOUT.as_secs());
    // All clients of a node that has started again may come at once.
    assert!(CLIENT_CONNECTIONS_MAX <= CLIENT_STRANGERS_MAX);
    // Two lost words are no accident.
    assert!(2 * WATCH_PROGRESS_INTERVAL.as_secs() < WATCH_SILENCE_MAX.as_secs());
    // A compare-and-swap has two values; the front door checks them, so only commands on many keys have to be measured.
    assert!(KEY_BYTES_MAX + 2 * VALUE_BYTES_MAX < COMMAND_BYTES_MAX);
    // The largest entry, and a full batch, fit one message.
    assert!(COMMAND_BYTES_MAX + APPEND_BYTES_MAX < RPC_MESSAGE_BYTES_MAX);
    assert!(ANSWER_BYTES_MAX < RPC_MESSAGE_BYTES_MAX / 2);
    // base64 grows by a third. Text that JSON has to escape may not fit: it is sent as base64.
    assert!(2 * (VALUE_BYTES_MAX / 3 * 4) + 4 * KEY_BYTES_MAX < HTTP_BODY_BYTES_MAX);
    // The largest body has room, and all operations at once where each is of the usual kind.
    assert!(HTTP_BODY_BYTES_MAX <= BODIES_BYTES_MAX);
    assert!(OPERATIONS_IN_FLIGHT_MAX * 256 * 1024 <= BODIES_BYTES_MAX);
    // A region's chunks and their digests are a bit each, and fit one message.
    assert!(SNAPSHOT_REGION_CHUNKS == u64::BITS);
    assert!(SNAPSHOT_SETTING_MAX.checked_mul(1024 * 1024).is_some());
    assert!(SNAPSHOT_CHUNK_BYTES < RPC_MESSAGE_BYTES_MAX / 2);
    assert!(SNAPSHOT_ALIVE_INTERVAL.as_secs() * 3 < SNAPSHOT_STEP_TIMEOUT.as_secs());
    assert!(BACKUP_WAIT.as_secs() + OPERATION_TIMEOUT.as_secs() < BACKUP_BEGIN_TIMEOUT.as_secs());
    assert!(SCAN_LIMIT_DEFAULT <= SCAN_LIMIT_MAX);
    // A page always has room for one entry.
    assert!((KEY_BYTES_MAX + VALUE_BYTES_MAX) as u64 + RECORD_BYTES <= SCAN_BYTES_MAX as u64);
    assert!(ABOUT_RETRY.as_secs() < ABOUT_INTERVAL.as_secs());
    assert!(HAND_OVER_WELL_MIN.as_secs() < HAND_OVER_LED_MIN.as_secs());
    assert!(HAND_OVER_LED_MIN.as_secs() < HAND_OVER_COOL_DOWN.as_secs());
    // Four lost keep-alives in a row are no accident.
    assert!(4 * PEER_KEEP_ALIVE.as_millis() < PEER_IDLE_TIMEOUT.as_millis());
    assert!(STRANGER_WINDOW_BYTES < PEER_WINDOW_BYTES);
    // Whoever hears a newcomer waits for the leader's change.
    assert!(OPERATION_TIMEOUT.as_secs() < JOIN_TIMEOUT.as_secs());
    assert!(TICKET_PEERS_MAX <= PEERS_MAX);
    assert!(VOTERS_MAX <= PEERS_MAX);
    // Who is forgotten is seldom a member, even where each was replaced many times.
    assert!(PEERS_MAX <= MAX_PEERS / 10);
    // A key has 52 characters in z-base-32, and a name 255 bytes with the length of each part (RFC 1035, 2.3.4).
    assert!("_iroh.".len() + 52 + ".".len() + DNS_ORIGIN_BYTES_MAX + ".".len() <= 253);
    assert!("relay=".len() + SERVER_URL_BYTES_MAX <= u8::MAX as usize);
    assert!(PUBLISHED_ADDRESSES_MAX < LOOKED_UP_ADDRESSES_MAX);
    // A member's number, key in hexadecimal and two addresses.
    assert!(PEERS_MAX as usize * 200 < JOIN_ANSWER_BYTES_MAX);
    assert!(PEER_STREAMS_MAX as u64 * PEER_STREAM_WINDOW_BYTES as u64 <= PEER_WINDOW_BYTES as u64);
    // A refusal, which leaves nothing open, comes before a time-out, which does; also where a leader that is to be removed hands
    // leadership over when it has its turn.
    assert!(LEADER_WAIT.as_millis() + HAND_OVER_TIMEOUT.as_millis() < OPERATION_TIMEOUT.as_millis());
    assert!(FRESHNESS_WAIT.as_secs() < OPERATION_TIMEOUT.as_secs());
    assert!(FRESHNESS_ASK_TIMEOUT.as_secs() < FRESHNESS_WAIT.as_secs());
    assert!(
        2 * HAND_OVER_TIMEOUT.as_secs()
            + HTTP_DRAIN_TIMEOUT.as_secs()
            + ENDPOINT_CLOSE_TIMEOUT.as_secs()
            + RUNTIME_STOP_TIMEOUT.as_secs()
            < STOP_TIMEOUT.as_secs()
    );
    // Whatever waits fits into one proposal, and any command alone.
    assert!(PROPOSAL_COMMANDS_MAX >= OPERATIONS_IN_FLIGHT_MAX);
    assert!(COMMAND_BYTES_MAX <= PROPOSAL_BYTES_MAX);
};
