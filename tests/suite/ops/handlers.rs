//! Handlers that wait, or block their thread, until a test opens them.

use std::{
    sync::{Arc, Condvar, Mutex},
    thread::JoinHandle,
};

use tidings::{Bus, Context, EventSubscriber, Failure, Worker, worker::Background};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::support::{Noted, User};

/// Handlers that wait for a permit after they were noted.
#[derive(Clone)]
pub struct Gate {
    pub noted: Noted,
    pub open: Arc<Semaphore>,
}

impl Gate {
    pub fn closed() -> Self {
        Self {
            noted: Noted::default(),
            open: Arc::new(Semaphore::new(0)),
        }
    }
}

pub async fn wait(user: User, cx: Context<Gate>) -> Result<(), Failure> {
    cx.state().noted.note(user.id);
    let open = Arc::clone(&cx.state().open);
    open.acquire().await.map_err(Failure::retry)?.forget();
    Ok(())
}

/// A worker on a runtime of its own with one thread, which its handler blocks: that of the test goes on. Its subscriber
/// is `blocks`.
pub struct Blocked {
    pub noted: Noted,
    gate: Arc<(Mutex<bool>, Condvar)>,
    stop: CancellationToken,
    service: JoinHandle<()>,
}

#[derive(Clone)]
struct Blocks {
    noted: Noted,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

async fn block(user: User, cx: Context<Blocks>) -> Result<(), Failure> {
    cx.state().noted.note(user.id);
    let (is_open, opened) = &*cx.state().gate;
    drop(opened.wait_while(is_open.lock().unwrap(), |is_open| !*is_open));
    Ok(())
}

impl Blocked {
    /// Runs the worker with this beside it.
    pub fn run(nats: String, beside: impl Background) -> Self {
        let state = Blocks {
            noted: Noted::default(),
            gate: Arc::default(),
        };
        let (noted, gate) = (state.noted.clone(), Arc::clone(&state.gate));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let service = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
            let running = runtime.spawn(async move {
                let bus = Bus::connect(nats.as_str()).await.unwrap();
                let worker = Worker::new(bus, state).with(beside);
                let worker = worker.subscribe(EventSubscriber::durable("blocks").on(block));
                worker.run(stopped.cancelled()).await
            });
            runtime.block_on(running).unwrap().unwrap();
        });
        Self {
            noted,
            gate,
            stop,
            service,
        }
    }

    /// Lets the handlers return.
    pub fn open(&self) {
        let (is_open, opened) = &*self.gate;
        *is_open.lock().unwrap() = true;
        opened.notify_all();
    }

    /// Tells the worker to stop.
    pub fn ends(&self) {
        self.stop.cancel();
    }

    /// Stops the worker, and waits for its end.
    pub async fn stop(self) {
        self.ends();
        tokio::task::spawn_blocking(move || self.service.join().unwrap())
            .await
            .unwrap();
    }
}
