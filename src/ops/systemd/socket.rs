//! The socket of systemd: datagrams of lines. Never waits.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        net::{SocketAddr, UnixDatagram},
    },
};

pub(super) struct Socket(OsString);

impl Socket {
    pub(super) fn new(name: &OsStr) -> Self {
        Self(name.to_owned())
    }

    /// Sends a message; nothing when it is empty.
    ///
    /// # Errors
    /// The error of the operating system; also that the receiver has no room.
    pub(super) fn send(&self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(text.as_bytes(), &self.address()?)?;
        Ok(())
    }

    fn address(&self) -> io::Result<SocketAddr> {
        match self.0.as_bytes().strip_prefix(b"@") {
            Some(name) => of_abstract(name),
            None => SocketAddr::from_pathname(&self.0),
        }
    }
}

#[cfg(target_os = "linux")]
fn of_abstract(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn of_abstract(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}
