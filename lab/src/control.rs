//! `lab up`, and the commands that work on a lab that is up.
//!
//! Three kinds of process. The *outer* of `lab up` opens the control socket and the published ports on the host, starts the
//! sandbox and holds it: in the foreground that is what the user has started, with `--detach` a process of its own that has
//! no terminal. The *inner* runs the cluster and answers calls. Every other command is a *client* of the control socket: one
//! call, one reply.
//!
//! Nothing is judged here: load, faults and checks of the scenario are not used.

mod about;
mod client;
mod connection;
mod console;
mod desk;
mod inherit;
mod inner;
mod lab;
mod links;
mod outer;
pub mod protocol;
mod publish;
mod server;
mod socket;
mod text;
mod words;

pub use self::client::{ClientError, run};
pub use self::inner::{INNER, InnerError, run_inner};
pub use self::outer::{HOLDER, UpError, run_holder, up};
pub use self::publish::PublishError;
pub use self::socket::SocketError;
