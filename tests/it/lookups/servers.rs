//! What a node may ask besides its peers, on loopback: a relay, a name server and a pkarr relay. No test asks a public one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use data_encoding::{Encoding, HEXLOWER, Specification};
use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A port that the kernel chooses.
const ANY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A relay without a certificate.
pub(super) struct Relay {
    runtime: Runtime,
    server: Option<Server>,
    address: SocketAddr,
}

impl Relay {
    pub(super) fn start() -> Self {
        let mut relay = Self { runtime: Runtime::new().unwrap(), server: None, address: ANY.into() };
        relay.open();
        relay
    }

    /// Begins to relay, at the address that it had before.
    pub(super) fn open(&mut self) {
        let mut config = ServerConfig::default();
        config.relay = Some(RelayConfig::new(self.address));
        let server = self.runtime.block_on(Server::spawn(config)).unwrap();
        self.address = server.http_addr().unwrap();
        self.server = Some(server);
    }

    /// Ends, and with it every connection.
    pub(super) fn close(&mut self) {
        self.runtime.block_on(self.server.take().unwrap().shutdown()).unwrap();
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Packets that it has handed on.
    pub(super) fn relayed(&self) -> u64 {
        self.server.as_ref().unwrap().metrics().server.send_packets_sent.get()
    }
}

/// A name server that knows TXT records.
pub(super) struct NameServer {
    pub(super) address: SocketAddr,
    records: Arc<Mutex<BTreeMap<String, String>>>,
    asked: Arc<Mutex<BTreeSet<String>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    pub(super) fn start() -> Self {
        let socket = UdpSocket::bind(ANY).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut server = Self {
            address: socket.local_addr().unwrap(),
            records: Arc::default(),
            asked: Arc::default(),
            is_over: Arc::default(),
            thread: None,
        };
        let (records, asked, is_over) =
            (server.records.clone(), server.asked.clone(), server.is_over.clone());
        server.thread = Some(std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let mut query = [0; 1_500];
                let (length, from) = match socket.recv_from(&mut query) {
                    Ok(received) => received,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => panic!("{error}"),
                };
                let (name, question) = question(&query[..length]);
                let record = records.lock().unwrap().get(&name).cloned();
                asked.lock().unwrap().insert(name);
                let _ = socket.send_to(&answer(&query, question, record.as_deref()), from);
            }
        }));
        server
    }

    /// Says where the node with this key is, in hexadecimal.
    pub(super) fn know(&self, origin: &str, key: &str, text: &str) {
        let name = format!("_iroh.{}.{origin}", z_base_32(key));
        self.records.lock().unwrap().insert(name, text.to_owned());
    }

    /// Every name that was asked for.
    pub(super) fn asked(&self) -> BTreeSet<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // It has failed, and with it the test that waited for an answer.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The name that is asked for, and its question as it was sent (RFC 1035, 4.1.2).
fn question(query: &[u8]) -> (String, &[u8]) {
    let (mut labels, mut place) = (Vec::new(), 12);
    while query[place] != 0 {
        let end = place + 1 + usize::from(query[place]);
        labels.push(String::from_utf8_lossy(&query[place + 1..end]).to_lowercase());
        place = end;
    }
    (labels.join("."), &query[12..place + 5])
}

/// One TXT record that counts for a second, or that there is no such name (RFC 1035, 4.1.3 and 3.3.14).
fn answer(query: &[u8], question: &[u8], text: Option<&str>) -> Vec<u8> {
    let flags: [u8; 2] = if text.is_some() { [0x85, 0x00] } else { [0x85, 0x03] };
    let mut answer =
        [&query[..2], &flags, &[0, 1, 0, u8::from(text.is_some()), 0, 0, 0, 0], question].concat();
    if let Some(text) = text {
        let length = u8::try_from(text.len()).unwrap();
        answer.extend([0xc0, 0x0c, 0, 16, 0, 1, 0, 0, 0, 1, 0, length + 1, length]);
        answer.extend(text.as_bytes());
    }
    answer
}

/// A key as names have it.
fn z_base_32(key: &str) -> String {
    let mut specification = Specification::new();
    specification.symbols.push_str("ybndrfg8ejkmcpqxot1uwisza345h769");
    let encoding: Encoding = specification.encoding().unwrap();
    encoding.encode(&HEXLOWER.decode(key.as_bytes()).unwrap())
}

type Packets = Arc<Mutex<BTreeMap<String, Bytes>>>;

/// Keeps what is published under each key, and believes everybody: those who ask look at the signature.
pub(super) struct PkarrRelay {
    address: SocketAddr,
    packets: Packets,
    _runtime: Runtime,
}

impl PkarrRelay {
    pub(super) fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let packets = Packets::default();
        let put = |State(packets): State<Packets>, Path(key): Path<String>, packet: Bytes| async move {
            packets.lock().unwrap().insert(key, packet);
            StatusCode::NO_CONTENT
        };
        let find = |State(packets): State<Packets>, Path(key): Path<String>| async move {
            packets.lock().unwrap().get(&key).cloned().ok_or(StatusCode::NOT_FOUND)
        };
        let router = Router::new().route("/pkarr/{key}", get(find).put(put)).with_state(packets.clone());
        let listener = runtime.block_on(TcpListener::bind(ANY)).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, packets, _runtime: runtime }
    }

    /// With a slash at its end, which changes nothing.
    pub(super) fn url(&self) -> String {
        format!("http://{}/pkarr/", self.address)
    }

    /// What was published under a key, in hexadecimal, as text where it is text.
    pub(super) fn published(&self, key: &str) -> Option<String> {
        let packets = self.packets.lock().unwrap();
        packets.get(&z_base_32(key)).map(|packet| String::from_utf8_lossy(packet).into_owned())
    }
}
