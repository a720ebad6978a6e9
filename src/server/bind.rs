//! Listening, on everything that the configuration names.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use super::StartError;
use super::settings::{listen_options, ws_settings};
use crate::config::{Bind, Config, Listener};
use crate::net::{ListenSocket, Listening, SocketFile, TlsAcceptor, bind_group, bind_unix};

/// What listens.
pub(super) struct Bound {
    /// The sockets of each shard, in the order of the configuration.
    pub(super) by_shard: Vec<Vec<Listening>>,
    /// Where they listen, in the same order.
    pub(super) addresses: Vec<Bind>,
    /// The files of those that have one.
    pub(super) files: Vec<SocketFile>,
}

/// Listens on everything, once for each shard.
pub(super) fn bind_all(
    config: &Config,
    shards: usize,
    tls: &[Option<Arc<TlsAcceptor>>],
) -> Result<Bound, StartError> {
    let by_shard = (0..shards).map(|_| Vec::new()).collect();
    let mut bound = Bound { by_shard, addresses: Vec::new(), files: Vec::new() };
    for (listener, tls) in config.listeners.iter().zip(tls) {
        let address = &listener.bind;
        let (sockets, at) = bind(listener, shards, &mut bound.files)
            .map_err(|error| StartError::Bind { address: address.clone(), error })?;
        bound.addresses.push(at);
        let ws = listener.websocket.as_ref().map(|websocket| Arc::new(ws_settings(websocket)));
        for (shard, socket) in bound.by_shard.iter_mut().zip(sockets) {
            let (proxied, tls, ws) = (listener.proxy_protocol, tls.clone(), ws.clone());
            shard.push(Listening { socket, proxied, tls, ws });
        }
    }
    Ok(bound)
}

/// Listens on one of them; also says where.
fn bind(
    listener: &Listener,
    shards: usize,
    files: &mut Vec<SocketFile>,
) -> io::Result<(Vec<ListenSocket>, Bind)> {
    let backlog = i32::try_from(listener.backlog).unwrap_or(i32::MAX);
    match &listener.bind {
        Bind::Ip(address) => {
            let bound = bind_group(*address, shards, backlog, &listen_options(listener))?;
            let at = bound.first().map_or(Ok(*address), TcpListener::local_addr)?;
            Ok((bound.into_iter().map(ListenSocket::Tcp).collect(), Bind::Ip(at)))
        }
        Bind::Unix(path) => {
            let (file, bound) = bind_unix(path, listener.socket_mode, shards, backlog)?;
            files.push(file);
            let bound = bound.into_iter().map(ListenSocket::Unix).collect();
            Ok((bound, listener.bind.clone()))
        }
    }
}

/// What the system means when it does not let us listen.
pub(super) fn why(address: &Bind, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "a program listens there already: ",
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address: ",
        io::ErrorKind::AlreadyExists => "something that is no socket is there: ",
        io::ErrorKind::PermissionDenied if matches!(address, Bind::Ip(address) if address.port() < 1024) => {
            "ports below 1024 are for root, or who has CAP_NET_BIND_SERVICE: "
        }
        _ => "",
    }
}
