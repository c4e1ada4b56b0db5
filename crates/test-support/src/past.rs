//! A nats-server whose store can be replaced by an earlier copy.

use std::path::{Path, PathBuf};

use tidings_test_servers::NatsServer;

use super::{Database, Folder, World};

/// The copy of a store.
pub struct Past {
    folder: Folder,
}

impl Past {
    /// A world whose server has its store in this folder.
    pub async fn world<DB: Database>() -> (World<DB>, Self) {
        let past = Self {
            folder: Folder::new(),
        };
        let nats = NatsServer::options().store(past.store());
        let nats = nats.start().await.expect("nats-server starts");
        (World::with(DB::open().await, nats).await, past)
    }

    /// Copies the store while the server is stopped.
    pub async fn keep(&self, nats: &NatsServer) {
        nats.stop().await.expect("it stops");
        copy_folder(&self.store(), &self.copy());
        nats.restart().await.expect("it starts");
    }

    /// Replaces the store of the server by the copy.
    pub async fn put_back(&self, nats: &NatsServer) {
        nats.stop().await.expect("it stops");
        std::fs::remove_dir_all(self.store()).expect("the store");
        copy_folder(&self.copy(), &self.store());
        nats.restart().await.expect("it starts");
    }

    /// Replaces one stream, with its consumers: like files that were not synced before a power failure.
    pub async fn put_back_stream(&self, nats: &NatsServer, stream: &str) {
        let of = |folder: PathBuf| folder.join("jetstream/$G/streams").join(stream);
        nats.stop().await.expect("it stops");
        std::fs::remove_dir_all(of(self.store())).expect("the stream");
        copy_folder(&of(self.copy()), &of(self.store()));
        nats.restart().await.expect("it starts");
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn copy(&self) -> PathBuf {
        self.folder.path().join("copy")
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("its kind").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
