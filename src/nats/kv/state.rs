//! The state that workers share, in a key-value bucket of NATS: an entry is only written over the revision that its
//! writer has seen. Never decides what an entry means.

use std::{fmt, time::Duration};

use async_nats::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{
    error_text::unplaced,
    nats::{
        Bus, BusError, BusErrorKind, REQUEST_TIMEOUT, Receipt, StoredMessage,
        consume::consumer::drift,
        protocol::{
            api, codes,
            cures::cure_of_code,
            headers::server,
            keys,
            names::{BUCKET, BUCKET_STREAM, RETRIES},
            server_headers::StoredAt,
        },
        stream::settings::{Role, put_over, setting_text},
    },
};

/// An entry as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) revision: u64,
    pub(crate) value: Bytes,
}

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holds<T> {
    Value(T),
    /// The entry was removed.
    Nothing,
    /// A value that does not belong there.
    Bad(BadEntry),
}

/// An entry that cannot be used. It affects nothing but itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BadEntry {
    pub(crate) key: String,
    pub(crate) revision: u64,
    pub(crate) why: String,
}

impl<T> Holds<T> {
    /// The value, if the entry holds one; a bad entry is logged.
    pub(crate) fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Nothing => None,
            Self::Bad(bad) => {
                tracing::warn!(issue = %bad, "bucket entry skipped");
                None
            }
        }
    }
}

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.escape_debug();
        write!(
            f,
            "the entry {key} of the bucket {BUCKET} is skipped: {}; `nats kv del {BUCKET} {key}` removes it",
            self.why
        )
    }
}

/// Reads the value of an entry, if it fits the entry's key.
pub(in crate::nats) fn read_entry<T: DeserializeOwned>(
    kept: &StoredMessage,
    misfit: impl FnOnce(&T) -> Option<String>,
) -> Holds<T> {
    /// The limit of characters: an error of a parser may quote its whole input.
    const LONGEST: usize = 200;
    if kept.payload.is_empty() {
        return Holds::Nothing;
    }
    let why = match serde_json::from_slice(&kept.payload) {
        Ok(value) => match misfit(&value) {
            None => return Holds::Value(value),
            Some(why) => why,
        },
        Err(error) => format!("it cannot be read: {}", unplaced(&error)),
    };
    let key = keys::of_subject(&kept.subject).unwrap_or(&kept.subject);
    Holds::Bad(BadEntry {
        key: key.to_owned(),
        revision: kept.sequence,
        why: why.chars().take(LONGEST).collect(),
    })
}

impl Bus {
    /// Creates the bucket `TIDINGS`, in which workers keep leases, parked keys and replays, if it is missing, and
    /// restores its settings. Workers do this themselves when they first need the bucket; a worker that may not create
    /// streams needs it to exist.
    ///
    /// # Errors
    /// [`BusError`] when the server does not answer or refuses.
    ///
    /// # Cancel safety
    /// When the future is dropped, the bucket may or may not be created or changed. Calling it again completes it.
    pub async fn apply_bucket(&self) -> Result<(), BusError> {
        self.open_state(RETRIES).await
    }

    /// Creates the bucket, if it is missing, with as many replicas as another stream has. In an existing bucket, of any
    /// origin, the settings that decide what it keeps are restored. When the server refuses that, the bucket is used as
    /// it is, and [reported](Bus::bucket_issues).
    pub(crate) async fn open_state(&self, like: &str) -> Result<(), BusError> {
        #[derive(Deserialize)]
        struct Created {}
        if let Some(info) = self.stream_info(BUCKET_STREAM).await? {
            return match self.set_bucket_back(info.config).await {
                Err(error @ (BusError::Refused { .. } | BusError::Denied { .. })) => {
                    tracing::error!(bucket = BUCKET, %error, "bucket update failed: its settings stay unchanged");
                    Ok(())
                }
                set_back => set_back,
            };
        }
        let info = self.stream_info(like).await?;
        let replicas = info.and_then(|info| info.config.get("num_replicas").cloned());
        let mut config = Map::new();
        config.insert("num_replicas".to_owned(), replicas.unwrap_or(json!(1)));
        put_over(&mut config, self.bucket_settings());
        for (setting, value) in [
            ("name", json!(BUCKET_STREAM)),
            ("retention", json!("limits")),
            ("storage", json!("file")),
            ("deny_delete", json!(true)),
        ] {
            config.insert(setting.to_owned(), value);
        }
        let subject = api::stream_create(BUCKET_STREAM);
        let created: Result<Created, _> = self.api(&subject, &config).await;
        created.map_err(cannot_make)?;
        tracing::info!(bucket = BUCKET, "bucket created");
        Ok(())
    }

    /// The settings that Tidings owns; `null` for one that must not be set.
    fn bucket_settings(&self) -> Map<String, Value> {
        let settings = json!({
            "subjects": [keys::ALL],
            "max_age": 0,
            "max_msgs": -1,
            // An entry has no history: only the last write is kept.
            "max_msgs_per_subject": 1,
            "max_msg_size": -1,
            "discard": "new",
            "discard_new_per_subject": false,
            "allow_direct": true,
            "allow_msg_ttl": true,
            "no_ack": false,
            // With rollups, a client that may write one entry could remove all others with it.
            "allow_rollup_hdrs": false,
            "subject_transform": null,
        });
        let mut settings = match settings {
            Value::Object(settings) => settings,
            _ => Map::new(),
        };
        if let Some(bytes) = self.options.bucket_max_bytes {
            settings.insert("max_bytes".to_owned(), json!(bytes));
        }
        if let Some(replicas) = self.options.bucket_replicas {
            settings.insert("num_replicas".to_owned(), json!(replicas));
        }
        settings
    }

    async fn set_bucket_back(&self, mut config: Map<String, Value>) -> Result<(), BusError> {
        let mut wanted = self.bucket_settings();
        // The server never changes the retention of a work queue.
        if config.get("retention") == Some(&json!("interest")) {
            wanted.insert("retention".to_owned(), json!("limits"));
        }
        let differs = drift(&config, &wanted);
        if differs.is_empty() {
            return Ok(());
        }
        put_over(&mut config, wanted);
        let subject = api::stream_update(BUCKET_STREAM);
        let _: Value = self.api(&subject, &config).await?;
        for (setting, now, wanted) in differs {
            let (now, wanted) = (
                setting_text(&setting, &now),
                setting_text(&setting, &wanted),
            );
            tracing::warn!(
                bucket = BUCKET,
                setting,
                now,
                wanted,
                "bucket setting restored"
            );
        }
        Ok(())
    }

    /// The issues of the bucket's settings, each in a sentence with its cure; empty without issues. Settings that can
    /// be restored are restored first, unless that was refused before, for the reason `refused_before`. Also returns
    /// the reason of a refusal.
    pub(crate) async fn bucket_issues(
        &self,
        refused_before: Option<&str>,
        others: &[String],
    ) -> Result<(Vec<String>, Option<String>), BusError> {
        let bucket = (BUCKET_STREAM, Role::Bucket);
        let Some(mut info) = self.stream_info(BUCKET_STREAM).await? else {
            return Ok((Vec::new(), None));
        };
        let differs = drift(&info.config, &self.bucket_settings());
        if differs.is_empty() {
            let issues = self.issues_of(bucket, &info, &[], others);
            return Ok((issues.await?, None));
        }
        let mut refused = refused_before.map(str::to_owned);
        if refused.is_none() {
            match self.set_bucket_back(info.config.clone()).await {
                Err(error @ (BusError::Refused { .. } | BusError::Denied { .. })) => {
                    tracing::error!(bucket = BUCKET, %error, "bucket update failed: its settings stay unchanged");
                    refused = Some(why_not_set_back(&error));
                }
                set_back => set_back?,
            }
            if let Some(now) = self.stream_info(BUCKET_STREAM).await? {
                info = now;
            }
        }
        let why = refused.as_deref().unwrap_or("though it was set back");
        let left = drift(&info.config, &self.bucket_settings()).into_iter();
        let left = left.map(|(setting, now, wanted)| {
            let (now, wanted) = (
                setting_text(&setting, &now),
                setting_text(&setting, &wanted),
            );
            format!("{setting} of the bucket {BUCKET} is {now} and not {wanted}, {why}")
        });
        let mut issues: Vec<String> = left.collect();
        let by_role = self.issues_of(bucket, &info, &[], others);
        issues.extend(by_role.await?);
        Ok((issues, refused))
    }

    /// Reads an entry. It may be older than the newest one; a write then fails and shows that.
    pub(crate) async fn read_state(&self, key: &str) -> Result<Option<Entry>, BusError> {
        let subject = api::direct_get_last(BUCKET_STREAM, &keys::subject(key));
        let request = Request::new()
            .payload(Bytes::new())
            .timeout(Some(REQUEST_TIMEOUT));
        let message = match self.answer(&subject, request).await {
            // The connection may be lost because the client cannot read the stored message.
            Err(error) if error.is_loss() => return self.read_state_alone(key).await,
            answer => answer?,
        };
        if message.status == Some(StatusCode::NOT_FOUND) {
            return Ok(None);
        }
        let revision = StoredAt::of(&message).map(|at| at.sequence);
        match revision {
            Some(revision) => Ok(Some(Entry {
                revision,
                value: message.payload,
            })),
            None => Err(BusError::Broken {
                subject,
                reason: "the answer has no sequence".to_owned(),
            }),
        }
    }

    async fn read_state_alone(&self, key: &str) -> Result<Option<Entry>, BusError> {
        let wanted = json!({ "last_by_subj": keys::subject(key) });
        let raw = self.raw(BUCKET_STREAM, &wanted).await?;
        Ok(raw.map(|raw| Entry {
            revision: raw.sequence,
            value: raw.payload.into(),
        }))
    }

    /// Writes an entry over the revision that was seen, 0 for none, and returns the new revision; `None` when another
    /// client has written since.
    pub(crate) async fn write_state(
        &self,
        key: &str,
        value: Bytes,
        seen: u64,
    ) -> Result<Option<u64>, BusError> {
        self.write_state_for(None, key, value, seen).await
    }

    /// Like `write_state`, for a limited time, after which the entry is gone.
    pub(crate) async fn write_state_for(
        &self,
        time: Option<Duration>,
        key: &str,
        value: Bytes,
        seen: u64,
    ) -> Result<Option<u64>, BusError> {
        let mut headers = over(seen);
        if let Some(time) = time {
            headers.insert(server::TTL, seconds(time));
        }
        unless_changed(self.put_state(key, headers, value).await)
    }

    /// Writes an entry if the newest of several, named with `*`, has the revision that was seen.
    pub(crate) async fn write_state_behind(
        &self,
        key: &str,
        value: Bytes,
        (of, seen): (&str, u64),
    ) -> Result<Option<u64>, BusError> {
        let mut headers = over(seen);
        headers.insert(
            server::EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT,
            keys::subject(of),
        );
        unless_changed(self.put_state(key, headers, value).await)
    }

    /// Empties an entry, whatever its revision; after a time it is gone.
    pub(crate) async fn clear_state(&self, time: Duration, key: &str) -> Result<(), BusError> {
        let mut headers = HeaderMap::new();
        headers.insert(server::KV_OPERATION, "DEL");
        headers.insert(server::TTL, seconds(time));
        let cleared = self.put_state(key, headers, Bytes::new()).await;
        cleared.map(drop)
    }

    async fn put_state(
        &self,
        key: &str,
        headers: HeaderMap,
        value: Bytes,
    ) -> Result<u64, BusError> {
        let subject = keys::subject(key);
        let request = Request::new()
            .headers(headers)
            .payload(value)
            .timeout(Some(REQUEST_TIMEOUT));
        let answer = match self.request(&subject, request).await {
            Ok(answer) => answer,
            Err(error) => return Err(Box::pin(self.why_unstored(&subject, error)).await),
        };
        match Receipt::read(&answer).into_result() {
            Ok(receipt) => Ok(receipt.seq),
            Err(error) => Err(BusError::refused(subject, error)),
        }
    }
}

/// Why a setting of the bucket stays as it is, with the cure.
fn why_not_set_back(error: &BusError) -> String {
    let stream = BUCKET_STREAM;
    match error {
        BusError::Refused {
            code, description, ..
        } => format!(
            "and the server refuses to set it back: {description} ({code}); use `nats stream edit {stream}` to change the \
             setting that conflicts, or stop the workers, delete the bucket with `nats stream rm {stream}`, and start \
             the workers, which recreate it; parked keys and replays are lost"
        ),
        _ => format!(
            "and this user may not set it back: allow it to publish to {}, or set it with `nats stream edit {stream}`",
            api::stream_update(stream)
        ),
    }
}

/// Names the cure where the account requires a limit for every stream, or the user may not create a stream.
fn cannot_make(error: BusError) -> BusError {
    match error {
        BusError::Refused {
            code: code @ (codes::MAX_BYTES_REQUIRED | codes::MAX_BYTES_EXCEEDED),
            description,
            ..
        } => BusError::Settings {
            issue: format!(
                "the bucket {BUCKET} cannot be created: {description} ({code}); set nats.bucket_max_bytes, or \
                 NatsOptions::bucket_max_bytes: 64 MiB are enough"
            ),
        },
        BusError::Refused {
            code: code @ codes::STREAMS_LIMIT,
            description,
            ..
        } => BusError::Settings {
            issue: format!(
                "the bucket {BUCKET} cannot be created: {description} ({code}); {}",
                cure_of_code(code)
            ),
        },
        BusError::Denied { permission, .. } => BusError::Settings {
            issue: format!(
                "the bucket {BUCKET} is missing, and this user may not create it: run `tidings streams apply` as a \
                 user that may publish to {permission}"
            ),
        },
        error => error,
    }
}

fn over(seen: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let seen = seen.to_string();
    headers.insert(server::EXPECTED_LAST_SUBJECT_SEQUENCE, seen);
    headers
}

fn unless_changed(written: Result<u64, BusError>) -> Result<Option<u64>, BusError> {
    match written {
        Ok(revision) => Ok(Some(revision)),
        Err(error) if error.kind() == BusErrorKind::WrongLastSequence => Ok(None),
        Err(error) => Err(error),
    }
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs().max(1))
}
