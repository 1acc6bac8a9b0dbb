//! How much of the vault strangers and callers can hold: connections, and what
//! is on its way on them.

use std::time::Duration;

/// Bounds of connections and of unfinished requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most connections.
    pub connections: usize,
    /// Most of them from one address.
    pub connections_per_address: usize,
    /// Most of them of one caller.
    pub connections_per_caller: usize,
    /// Most handshakes under way.
    pub handshakes: usize,
    /// Most of them from one address.
    pub handshakes_per_address: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How old a connection becomes.
    pub age: Duration,
    /// How long one stays without a call.
    pub idle: Duration,
    /// Most calls at once on one connection.
    pub calls_per_connection: u32,
    /// How long a request may take to arrive.
    pub request: Duration,
    /// Most bytes of requests that have not arrived in full.
    pub unfinished_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2048,
            connections_per_address: 1024,
            connections_per_caller: 256,
            handshakes: 512,
            handshakes_per_address: 128,
            handshake: Duration::from_secs(5),
            age: Duration::from_secs(3600),
            idle: Duration::from_secs(300),
            calls_per_connection: 200,
            request: Duration::from_secs(10),
            unfinished_bytes: 64 * 1024 * 1024,
        }
    }
}
