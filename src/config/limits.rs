//! `[server.limits]`: how much of the vault strangers and callers can hold.

use crate::grpc::limits::Limits;

use super::parse;
use super::table::Table;

pub(super) fn read(table: &mut Table<'_>) -> Option<Limits> {
    let defaults = Limits::default();
    let limits = Limits {
        connections: table.or("connections", defaults.connections, parse::whole(16..=1_000_000_usize)),
        connections_per_address: table.or(
            "connections_per_address",
            defaults.connections_per_address,
            parse::whole(1..=1_000_000_usize),
        ),
        connections_per_caller: table.or(
            "connections_per_caller",
            defaults.connections_per_caller,
            parse::whole(1..=1_000_000_usize),
        ),
        handshakes: table.or("handshakes", defaults.handshakes, parse::whole(16..=100_000_usize)),
        handshakes_per_address: table.or(
            "handshakes_per_address",
            defaults.handshakes_per_address,
            parse::whole(1..=100_000_usize),
        ),
        handshake: table.or("handshake_seconds", defaults.handshake, parse::seconds(1..=60)),
        age: table.or("age_seconds", defaults.age, parse::seconds(60..=604_800)),
        idle: table.or("idle_seconds", defaults.idle, parse::seconds(10..=86_400)),
        calls_per_connection: table.or(
            "calls_per_connection",
            defaults.calls_per_connection,
            parse::whole(1..=10_000_u32),
        ),
        request: table.or("request_seconds", defaults.request, parse::seconds(1..=300)),
        unfinished_bytes: table.or(
            "unfinished_bytes",
            defaults.unfinished_bytes,
            parse::whole(1_048_576..=4_294_967_296_usize),
        ),
    };
    Some(limits)
}
