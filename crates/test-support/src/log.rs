//! The log of the library, for tests of its messages. All tests of a process share it.

use std::{
    io,
    sync::{Mutex, Once},
};

static SAID: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Ear;

impl io::Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        SAID.lock().expect("no panic").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Records the log from now on.
pub fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt().with_ansi(false);
        subscriber.with_writer(|| Ear).init();
    });
}

/// The recorded lines that contain this text.
pub fn said(text: &str) -> Vec<String> {
    let said = SAID.lock().expect("no panic");
    let said = String::from_utf8_lossy(&said);
    let lines = said.lines().filter(|line| line.contains(text));
    lines.map(str::to_owned).collect()
}
