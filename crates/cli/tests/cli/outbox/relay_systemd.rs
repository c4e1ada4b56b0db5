//! `tidings relay` as a service of systemd: what it tells on the socket that it is given.

use std::time::Duration;

use tokio::net::UnixDatagram;

use crate::support::{Running, World};

both!(systemd_learns_of_a_relay_and_its_standby);

/// How long a message may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A relay with the end of its systemd.
struct Service {
    relay: Running,
    socket: UnixDatagram,
}

impl Service {
    fn start(world: &World, name: &str) -> Self {
        let path = world.path(name);
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut command = world.command(&["relay"]);
        command.env("NOTIFY_SOCKET", path);
        command.env("WATCHDOG_USEC", "500000");
        let relay = Running::of(command);
        Self { relay, socket }
    }

    async fn says(&self, line: &str) -> String {
        says(&self.socket, line).await
    }
}

/// Everything up to the first message that has this line. A status that does not change is sent once.
async fn says(socket: &UnixDatagram, line: &str) -> String {
    let reading = async {
        let mut all = String::new();
        loop {
            let mut message = [0; 4096];
            let length = socket.recv(&mut message).await.unwrap();
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            all.push_str(&message);
            all.push('\n');
            if message.lines().any(|one| one == line) {
                return all;
            }
        }
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    read.unwrap_or_else(|_| panic!("it never says {line}"))
}

async fn systemd_learns_of_a_relay_and_its_standby(world: World) {
    let world = world.set_up().await;
    let first = Service::start(&world, "first");
    let ready = first.says("READY=1").await;
    assert!(ready.contains("STATUS=relay tidings: idle"), "{ready}");
    assert_eq!(world.status().await["lease"]["epoch"], 1);
    first.says("WATCHDOG=1").await;

    let second = Service::start(&world, "second");
    let ready = second.says("READY=1").await;
    assert!(ready.contains("STATUS=relay tidings: standby"), "{ready}");
    second.says("WATCHDOG=1").await;

    let ended = tokio::spawn(first.relay.signalled("TERM"));
    says(&first.socket, "STOPPING=1").await;
    assert_eq!(ended.await.unwrap(), Some(0));
    second.says("STATUS=relay tidings: idle").await;
    assert_eq!(second.relay.signalled("TERM").await, Some(0));
}
