//! Listening, on everything that the configuration names.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use super::StartError;
use super::settings::{listen_options, ws_settings};
use crate::config::{Bind, Config, Listener};
use crate::net::{ListenSocket, Listening, SocketFile, TlsAcceptor, bind_group, bind_unix};
use crate::store::until_let_go;

/// What listens.
pub(super) struct Bound {
    /// The sockets of each shard, in the order of the configuration.
    pub(super) by_shard: Vec<Vec<Listening>>,
    /// Where they listen, in the same order.
    pub(super) addresses: Vec<Bind>,
    /// The files of those that have one.
    pub(super) files: Vec<SocketFile>,
}

/// Listens on everything, once for each shard. Whoever starts a broker again may do so at once: who listens
/// there already is given a moment to end.
pub(super) fn bind_all(
    config: &Config,
    shards: usize,
    tls: &[Option<Arc<TlsAcceptor>>],
) -> Result<Bound, StartError> {
    bind_all_while(config, shards, tls, until_let_go())
}

/// Tries until nobody listens there any more, or `again` says that this is enough.
fn bind_all_while(
    config: &Config,
    shards: usize,
    tls: &[Option<Arc<TlsAcceptor>>],
    mut again: impl FnMut() -> bool,
) -> Result<Bound, StartError> {
    let by_shard = (0..shards).map(|_| Vec::new()).collect();
    let mut bound = Bound { by_shard, addresses: Vec::new(), files: Vec::new() };
    for (listener, tls) in config.listeners.iter().zip(tls) {
        let address = &listener.bind;
        let (sockets, at) = loop {
            match bind(listener, shards, &mut bound.files) {
                Ok(listening) => break listening,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && again() => {}
                Err(error) => return Err(StartError::Bind { address: address.clone(), error }),
            }
        };
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

/// What to do about it.
pub(super) fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; name another address with --bind, or listener.bind",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use rustix::net::sockopt;
    use socket2::{Domain, SockAddr, Socket, Type};

    use super::*;

    fn listener(bind: impl Into<Bind>) -> Listener {
        let (receive_buffer, send_buffer) = (Some(30_000), Some(20_000));
        Listener {
            nodelay: false,
            receive_buffer,
            send_buffer,
            backlog: 3,
            // Those that are silent do not wait otherwise.
            defer_accept: false,
            ..Listener::on(bind)
        }
    }

    /// What connections inherit is set where they come in, on each shard.
    #[test]
    fn sockets_have_what_the_configuration_says() {
        let config = Config {
            listeners: vec![
                listener(SocketAddr::from(([127, 0, 0, 1], 0))),
                Listener::on(SocketAddr::from(([127, 0, 0, 1], 0))),
            ],
            ..Config::default()
        };
        let bound = bind_all(&config, 2, &[None, None]).unwrap();
        let options = |listening: &Listening| {
            let ListenSocket::Tcp(socket) = &listening.socket else { panic!("it is of TCP") };
            let nodelay = sockopt::tcp_nodelay(socket).unwrap();
            let receive = sockopt::socket_recv_buffer_size(socket).unwrap();
            (nodelay, receive, sockopt::socket_send_buffer_size(socket).unwrap())
        };
        for shard in &bound.by_shard {
            let [changed, default] = [0, 1].map(|place: usize| options(&shard[place]));
            // The kernel doubles what it is asked for, to have room for its own.
            assert_eq!(changed, (false, 60_000, 40_000));
            assert!(default.0 && default.1 != changed.1 && default.2 != changed.2, "{default:?}");
        }
    }

    /// As a process has them that was killed just now.
    #[test]
    fn who_lets_go_of_an_address_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let free = Bind::from(SocketAddr::from(([127, 0, 0, 1], 0)));
        for bind in [free, Bind::Unix(dir.path().join("socket"))] {
            let on = |bind: &Bind| Config {
                listeners: vec![Listener::on(bind.clone())],
                ..Config::default()
            };
            let mut first = Some(bind_all(&on(&bind), 2, &[None]).unwrap());
            let taken = on(&first.as_ref().unwrap().addresses[0]);
            let mut tries = 0;
            let second = bind_all_while(&taken, 2, &[None], || {
                tries += 1;
                if tries == 3 {
                    first = None;
                }
                tries < 100
            });
            assert!(second.is_ok() && tries == 3, "{tries}");
            let mut tries = 0;
            let third = bind_all_while(&taken, 2, &[None], || {
                tries += 1;
                tries < 5
            });
            assert!(matches!(third, Err(StartError::Bind { .. })) && tries == 5, "{tries}");
        }
    }

    /// The kernel lets in one more than may wait.
    #[test]
    fn so_many_wait_to_be_accepted_as_the_configuration_says() {
        let dir = tempfile::tempdir().unwrap();
        let tcp = Bind::from(SocketAddr::from(([127, 0, 0, 1], 0)));
        for bind in [tcp, Bind::Unix(dir.path().join("socket"))] {
            let config = Config { listeners: vec![listener(bind)], ..Config::default() };
            let bound = bind_all(&config, 1, &[None]).unwrap();
            let (domain, address) = match &bound.addresses[0] {
                Bind::Ip(address) => (Domain::for_address(*address), SockAddr::from(*address)),
                Bind::Unix(path) => (Domain::UNIX, SockAddr::unix(path).unwrap()),
            };
            let mut connected = Vec::new();
            for _ in 0..8 {
                let socket = Socket::new(domain, Type::STREAM, None).unwrap();
                let connects = match domain {
                    Domain::UNIX => {
                        socket.set_nonblocking(true).and_then(|()| socket.connect(&address))
                    }
                    _ => socket.connect_timeout(&address, Duration::from_millis(200)),
                };
                if connects.is_err() {
                    break;
                }
                connected.push(socket);
            }
            assert_eq!(connected.len(), 4, "{address:?}");
        }
    }
}
