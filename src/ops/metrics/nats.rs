//! The figures of the streams that the process uses, and of the storage of the account.
//! Never asks for what the user may not ask for.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use tokio::{runtime::Handle, time::timeout};

use super::{
    families as is,
    look::{Found, Looked},
    sheet::{Label, Sheet},
};
use crate::{
    nats::{AccountStorage, Bus, BusError, MeasuredStream, Need, Rights, api},
    preflight::nearer,
};

/// How often the streams are asked for at most.
const STREAMS: Duration = Duration::from_secs(10);
/// How often the account is asked for at most.
const ACCOUNT: Duration = Duration::from_secs(60);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most streams that have series.
const MOST_STREAMS: usize = 100;

/// The permissions of the user, and how often the connection was lost before they were read.
type KnownRights = Option<(u64, Option<Rights>)>;

/// The connection of a worker, and what the looks through it have found.
pub(super) struct Nats {
    bus: Bus,
    runtime: Handle,
    rights: Arc<Mutex<KnownRights>>,
    streams: Arc<Looked<Vec<MeasuredStream>>>,
    account: Arc<Looked<Option<AccountStorage>>>,
}

impl Nats {
    /// To be called on the runtime of the worker.
    pub(super) fn new(bus: Bus) -> Self {
        Self {
            bus,
            runtime: Handle::current(),
            rights: Arc::default(),
            streams: Looked::every(STREAMS),
            account: Looked::every(ACCOUNT),
        }
    }

    /// Begins the looks that are due; returns their ends.
    pub(super) fn renew(
        &self,
        used: BTreeSet<String>,
    ) -> impl Iterator<Item = BoxFuture<'static, ()>> {
        let asking = || Asking {
            bus: self.bus.clone(),
            rights: Arc::clone(&self.rights),
        };
        let streams = self.streams.renew(&self.runtime, || asking().streams(used));
        let account = self.account.renew(&self.runtime, || asking().account());
        streams.into_iter().chain(account)
    }

    pub(super) fn write(&self, sheet: &mut Sheet) {
        for (part, errors) in [
            ("streams", self.streams.errors()),
            ("account", self.account.errors()),
        ] {
            sheet.count(&is::SCRAPE_ERRORS, [&part.into()], errors);
        }
        self.streams.read(|streams| write_streams(streams, sheet));
        self.account.read(|account| {
            if let Some(account) = account {
                write_account(*account, sheet);
            }
        });
    }
}

#[allow(clippy::cast_precision_loss)] // bytes and messages of a stream: 2^53 are beyond every disk
pub(super) fn write_streams(streams: &[MeasuredStream], sheet: &mut Sheet) {
    for stream in streams {
        let of: Label = stream.name.as_str().into();
        let has_leader = f64::from(stream.state.is_some());
        sheet.gauge(&is::STREAM_HAS_LEADER, [&of], has_leader);
        let Some(state) = &stream.state else {
            continue;
        };
        for (family, value) in [
            (&is::STREAM_BYTES, state.bytes as f64),
            (&is::STREAM_MAX_BYTES, state.max_bytes.max(0) as f64),
            (&is::STREAM_MESSAGES, state.messages as f64),
            (&is::STREAM_OLDEST, state.oldest_s),
            (&is::STREAM_REPLICAS, state.replicas as f64),
            (&is::STREAM_REPLICAS_CURRENT, state.current as f64),
        ] {
            sheet.gauge(family, [&of], value);
        }
    }
    let ahead = streams.iter().map(|stream| stream.state?.ahead_s);
    if let Some(ahead) = ahead.fold(None, nearer) {
        sheet.gauge(&is::CLOCK_OFFSET, [&"nats".into()], ahead);
    }
}

#[allow(clippy::cast_precision_loss)] // bytes
pub(super) fn write_account(account: AccountStorage, sheet: &mut Sheet) {
    sheet.gauge(&is::JETSTREAM_STORAGE, [], account.used as f64);
    let most = account.limit.max(0) as f64;
    sheet.gauge(&is::JETSTREAM_MAX_STORAGE, [], most);
}

/// A look. It asks for nothing that the user may not ask for: the server would log that, and the program too.
struct Asking {
    bus: Bus,
    rights: Arc<Mutex<KnownRights>>,
}

impl Asking {
    async fn streams(self, used: BTreeSet<String>) -> Found<Vec<MeasuredStream>> {
        let rights = self.rights().await;
        let used = used.into_iter().take(MOST_STREAMS);
        let used = used.filter(|name| may(rights.as_ref(), api::stream_info(name)));
        let looks = used.map(async |name| within(self.bus.measured_stream(&name)).await);
        let mut found = Found {
            figures: Some(Vec::new()),
            failed: 0,
        };
        for looked in join_all(looks).await {
            match looked {
                Ok(stream) => found.figures.get_or_insert_default().extend(stream),
                Err(()) => found.failed += 1,
            }
        }
        found
    }

    async fn account(self) -> Found<Option<AccountStorage>> {
        let rights = self.rights().await;
        if !may(rights.as_ref(), api::ACCOUNT_INFO.to_owned()) {
            return Found::of(Ok::<_, ()>(None));
        }
        Found::of(within(self.bus.account_storage()).await.map(Some))
    }

    /// The permissions of the user; another connection may have other ones.
    async fn rights(&self) -> Option<Rights> {
        let lost = *self.bus.losses().borrow();
        if let Some((_, rights)) = self.known().clone().filter(|(at, _)| *at == lost) {
            return rights;
        }
        let rights = timeout(PATIENCE, self.bus.rights()).await.ok()?;
        *self.known() = Some((lost, rights.clone()));
        rights
    }

    fn known(&self) -> MutexGuard<'_, KnownRights> {
        self.rights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the user may publish a request; not, when that is not known.
fn may(rights: Option<&Rights>, subject: String) -> bool {
    let need = Need::publish(subject, "metrics");
    rights.is_some_and(|rights| rights.missing(&[need]).is_empty())
}

async fn within<T>(answer: impl Future<Output = Result<T, BusError>>) -> Result<T, ()> {
    match timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            tracing::debug!(%error, "NATS metrics unavailable");
            Err(())
        }
        Err(_) => {
            tracing::debug!("NATS metrics timed out");
            Err(())
        }
    }
}
