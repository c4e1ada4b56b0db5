//! A private nats-server for tests, demos and benchmarks. Owns its configuration and its store. It reads the server's
//! greeting but never connects as a client, and knows no streams or subjects.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

use crate::find::Surroundings;
use crate::home::Home;
use crate::process::{Launch, ServerProcess, Signal};
use crate::server_error::ServerError;

/// Another process may take the port between the check and the server's start; that this many attempts fail so is
/// unlikely.
const ATTEMPTS: usize = 5;
const GREETING_BYTES: u64 = 64 * 1024;
const GREETING_WITHIN: Duration = Duration::from_secs(1);

/// A running nats-server with JetStream, with its own port and store; ended and deleted on drop.
///
/// It also ends when this process is killed (Linux with util-linux' `setpriv`). All methods take `&self`: the tests of
/// a binary can share one server through a `static`, whichever runtime they run on.
///
/// ```no_run
/// # async fn example() -> Result<(), tidings_test_servers::ServerError> {
/// let nats = tidings_test_servers::NatsServer::start().await?;
/// println!("listening on {}", nats.url());
/// nats.kill()?;
/// nats.restart().await?; // the same port, the same store
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct NatsServer {
    // Fields are dropped in this order: the process ends before its folder is removed.
    process: ServerProcess,
    home: Home,
    name: String,
    options: NatsServerOptions,
}

/// Options of a [`NatsServer`], set before it starts.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct NatsServerOptions {
    sync_always: bool,
    max_payload: Option<usize>,
    max_file: Option<u64>,
    port: Option<u16>,
    store: Option<PathBuf>,
    config: String,
    jetstream: String,
}

impl NatsServer {
    /// Starts a server with the default options and returns when it is ready.
    ///
    /// # Errors
    /// [`ServerError::NotFound`] without a nats-server on this machine, else as [`NatsServerOptions::start`].
    pub async fn start() -> Result<Self, ServerError> {
        Self::options().start().await
    }

    /// The default options: lazy fsync, the server's limits, a free port, a store that is deleted on drop.
    pub fn options() -> NatsServerOptions {
        NatsServerOptions::default()
    }

    /// The address for clients, for example `nats://127.0.0.1:20123`. It stays the same across restarts.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port())
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.home.port()
    }

    /// The id of the running process, or of the last one after it has ended.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends the server with SIGKILL and returns when the process has ended; the store stays.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the operating system refuses.
    pub fn kill(&self) -> Result<(), ServerError> {
        self.process.kill()
    }

    /// Shuts the server down gracefully; the store stays.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the operating system refuses.
    pub async fn stop(&self) -> Result<(), ServerError> {
        self.process.stop().await
    }

    /// Starts the server again with the same port and store and returns when it is ready. A running server is stopped
    /// first.
    ///
    /// # Errors
    /// [`ServerError::FailedToStart`] when it does not become ready.
    pub async fn restart(&self) -> Result<(), ServerError> {
        self.process.stop().await?;
        self.process.start_again().await?;
        self.wait_until_ready().await
    }

    /// Freezes the server with SIGSTOP: connections stay open, and the server does not answer.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the server does not run.
    pub fn pause(&self) -> Result<(), ServerError> {
        self.process.signal_family(Signal::Pause)
    }

    /// Continues a paused server with SIGCONT.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the server does not run.
    pub fn resume(&self) -> Result<(), ServerError> {
        self.process.signal_family(Signal::Resume)
    }

    /// Replaces the lines of [`NatsServerOptions::config`] in the running server, for example to change users. They
    /// take effect a moment later.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the server does not run, or its configuration cannot be written.
    pub fn reload(&self, lines: impl Into<String>) -> Result<(), ServerError> {
        let config = self.home.path().join("nats.conf");
        let options = self.options.clone().config(lines);
        fs::write(&config, options.render(&self.home, &self.name))
            .map_err(ServerError::path("write", &config))?;
        self.process.reload()
    }

    async fn wait_until_ready(&self) -> Result<(), ServerError> {
        let answers = || greets(self.port(), &self.name);
        self.process.wait_until(answers).await
    }
}

impl NatsServerOptions {
    /// Syncs every write to the disk before it is confirmed (`sync_interval: always`).
    pub fn sync_always(mut self, sync_always: bool) -> Self {
        self.sync_always = sync_always;
        self
    }

    /// The largest message, headers included, in bytes; the server's default is 1 MiB.
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = Some(bytes);
        self
    }

    /// The most bytes that JetStream may store; above it the server behaves as with a full disk.
    pub fn max_file(mut self, bytes: u64) -> Self {
        self.max_file = Some(bytes);
        self
    }

    /// A fixed port instead of any free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// A store folder of the caller's choice, which is kept on drop.
    pub fn store(mut self, folder: impl Into<PathBuf>) -> Self {
        self.store = Some(folder.into());
        self
    }

    /// More lines for the server's configuration file, outside its `jetstream` block: a cluster, an account.
    pub fn config(mut self, lines: impl Into<String>) -> Self {
        self.config = lines.into();
        self
    }

    /// More lines for the `jetstream` block of the server's configuration file, such as limits.
    pub fn jetstream(mut self, lines: impl Into<String>) -> Self {
        self.jetstream = lines.into();
        self
    }

    /// Starts the server and returns when it is ready, after about 50 ms.
    ///
    /// # Errors
    /// [`ServerError::NotFound`] without a nats-server on this machine, [`ServerError::FailedToStart`] with the end of
    /// its log, [`ServerError::Io`] when the port is taken or a folder cannot be written.
    ///
    /// # Cancel safety
    /// When the future is dropped, the server is ended.
    pub async fn start(self) -> Result<NatsServer, ServerError> {
        let program = Surroundings::of_this_process().nats_server()?;
        let mut attempt = 1;
        loop {
            match self.clone().start_once(program.clone()).await {
                Err(ServerError::FailedToStart { log, .. })
                    if log.contains("address already in use")
                        && self.port.is_none()
                        && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                started_or_failed => return started_or_failed,
            }
        }
    }

    async fn start_once(self, program: PathBuf) -> Result<NatsServer, ServerError> {
        let home = Home::reserve(self.port).await?;
        let name = format!("tidings-{}-{}", std::process::id(), home.port());
        let config = home.path().join("nats.conf");
        fs::write(&config, self.render(&home, &name))
            .map_err(ServerError::path("write", &config))?;
        let process = ServerProcess::start(Launch {
            name: "nats-server",
            program,
            arguments: vec!["-c".into(), config.display().to_string()],
            home: home.path().into(),
            user: None,
            last_signal: Signal::Kill,
        })
        .await?;
        let server = NatsServer {
            process,
            home,
            name,
            options: self,
        };
        server.wait_until_ready().await?;
        Ok(server)
    }

    fn render(&self, home: &Home, name: &str) -> String {
        let store = match &self.store {
            // Relative to the caller's working directory, not to the server's.
            Some(store) => std::path::absolute(store).unwrap_or_else(|_| store.clone()),
            None => home.path().join("store"),
        };
        let mut lines = vec![
            format!("server_name: {name}"),
            format!("listen: \"127.0.0.1:{}\"", home.port()),
        ];
        if let Some(bytes) = self.max_payload {
            lines.push(format!("max_payload: {bytes}"));
        }
        lines.push("jetstream {".into());
        lines.push(format!("  store_dir: {:?}", store.display().to_string()));
        if self.sync_always {
            lines.push("  sync_interval: always".into());
        }
        if let Some(bytes) = self.max_file {
            lines.push(format!("  max_file: {bytes}"));
        }
        lines.push(self.jetstream.clone());
        lines.push("}".into());
        lines.push(self.config.clone());
        lines.join("\n") + "\n"
    }
}

/// Whether the server with this name sends the greeting on the port, with JetStream on. Another server's greeting does
/// not count.
async fn greets(port: u16, name: &str) -> bool {
    let greeting = async {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let mut line = String::new();
        let mut reader = BufReader::new(stream.take(GREETING_BYTES));
        reader.read_line(&mut line).await?;
        std::io::Result::Ok(line)
    };
    match tokio::time::timeout(GREETING_WITHIN, greeting).await {
        Ok(Ok(line)) => {
            line.starts_with("INFO ")
                && line.contains(&format!("\"server_name\":\"{name}\""))
                && line.contains("\"jetstream\":true")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_started_server_greets_on_its_url() {
        let nats = NatsServer::start().await.unwrap();

        let greeted = greets(nats.port(), &nats.name).await;

        assert!(greeted);
        assert_eq!(nats.url(), format!("nats://127.0.0.1:{}", nats.port()));
    }

    #[tokio::test]
    async fn a_killed_server_comes_back_with_its_port_and_store() {
        let nats = NatsServer::start().await.unwrap();
        let (url, store) = (nats.url(), nats.home.path().join("store"));
        nats.kill().unwrap();
        let down = !greets(nats.port(), &nats.name).await;
        let kept = store.exists();

        nats.restart().await.unwrap();

        assert!(down && kept);
        assert_eq!(nats.url(), url);
        assert!(greets(nats.port(), &nats.name).await);
    }

    #[tokio::test]
    async fn a_paused_server_is_silent_until_it_is_resumed() {
        let nats = NatsServer::start().await.unwrap();

        nats.pause().unwrap();
        let paused = greets(nats.port(), &nats.name).await;
        nats.resume().unwrap();

        assert!(!paused);
        nats.wait_until_ready().await.unwrap();
    }

    #[tokio::test]
    async fn a_stopped_server_restarts_and_a_second_stop_is_harmless() {
        let nats = NatsServer::start().await.unwrap();
        nats.stop().await.unwrap();
        nats.stop().await.unwrap();
        let first = nats.pid();

        nats.restart().await.unwrap();

        assert_ne!(nats.pid(), first);
    }

    #[tokio::test]
    async fn a_drop_ends_the_process_and_wipes_the_folder() {
        let nats = NatsServer::start().await.unwrap();
        let (port, name, folder) = (nats.port(), nats.name.clone(), nats.home.path().to_owned());

        drop(nats);

        assert!(!folder.exists());
        assert!(!greets(port, &name).await);
    }

    #[tokio::test]
    async fn a_store_of_the_caller_is_not_deleted() {
        let folder = std::env::temp_dir().join(format!("tidings-store-{}", std::process::id()));
        let options = NatsServer::options().store(&folder).sync_always(true);

        drop(options.max_payload(2 << 20).start().await.unwrap());

        let kept = folder.join("jetstream").exists();
        fs::remove_dir_all(&folder).unwrap();
        assert!(kept);
    }

    #[tokio::test]
    async fn a_refused_configuration_fails_with_the_servers_own_words() {
        let broken = NatsServer::options().config("no_such_option: 1");

        let message = broken.start().await.unwrap_err().to_string();

        assert!(message.contains("no_such_option"), "{message}");
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error_and_not_another_port() {
        let first = NatsServer::start().await.unwrap();

        let second = NatsServer::options().port(first.port()).start().await;

        let message = second.unwrap_err().to_string();
        assert_eq!(
            message,
            format!("could not reserve the port {}", first.port())
        );
    }

    #[tokio::test]
    async fn a_server_outlives_the_runtime_that_started_it() {
        let start = || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(NatsServer::start()).unwrap()
        };
        let nats = std::thread::spawn(start).join().unwrap();

        let greeted = greets(nats.port(), &nats.name).await;

        assert!(greeted);
    }
}
