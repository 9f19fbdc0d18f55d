//! Whether the other end of a socket is gone, without reading what it sent before.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The other end sends nothing more, which a socket says even while there is something to read.
#[cfg(target_os = "linux")]
const PEER_CLOSED: PollFlags = PollFlags::RDHUP;
/// Elsewhere only a connection that broke is seen.
#[cfg(not(target_os = "linux"))]
const PEER_CLOSED: PollFlags = PollFlags::HUP;

/// Asks the kernel; waits for nothing.
pub(super) fn is_hung_up(socket: &impl AsFd) -> bool {
    let mut asked = [PollFd::new(socket, PEER_CLOSED)];
    let now = Timespec::default();
    poll(&mut asked, Some(&now)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{Shutdown, TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn a_close_is_seen_behind_what_nobody_has_read() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"unread").unwrap();
        assert!(!is_hung_up(&server));

        client.shutdown(Shutdown::Write).unwrap();

        while !is_hung_up(&server) {
            std::thread::yield_now();
        }
    }
}
