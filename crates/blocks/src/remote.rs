//! Object stores: where a store keeps what it has finished, besides its directory.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lockstep_storage::StoredFile;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig};
use tokio::runtime::Handle;

/// How long a call is tried again while the store is away.
const RETRY_TIMEOUT: Duration = Duration::from_secs(120);

/// How long one attempt may take; a pack has 64 MiB.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest pause between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Objects by name. Calls may wait for long; none is made from a thread that must not.
pub trait Remote: Send + Sync {
    /// Stores an object, in the place of one that may be there.
    ///
    /// # Errors
    /// When it is not stored, as far as is known.
    fn put(&self, name: &str, bytes: Bytes) -> io::Result<()>;

    /// Stores an object unless there is one of that name. Answers whether it did.
    ///
    /// # Errors
    /// When neither is known.
    fn create(&self, name: &str, bytes: Bytes) -> io::Result<bool>;

    /// An object; none when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn get(&self, name: &str) -> io::Result<Option<Bytes>>;

    /// A part of an object, which has so many bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    fn get_range(&self, name: &str, offset: u64, bytes: u64) -> io::Result<Bytes>;

    /// The names of all objects, and their lengths.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Removes an object. One that is not there is no error.
    ///
    /// # Errors
    /// When it is not removed, as far as is known.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// Where a bucket is, and who asks.
#[derive(Clone)]
pub struct S3Config {
    /// The address, as `https://s3.example:9000`; none for that of AWS.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// What the names of all objects begin with; may be empty.
    pub prefix: String,
    /// The access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
}

impl std::fmt::Debug for S3Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("S3Config");
        out.field("endpoint", &self.endpoint).field("region", &self.region).field("bucket", &self.bucket);
        out.field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A bucket of an S3-compatible store.
pub struct S3 {
    store: AmazonS3,
    prefix: String,
    runtime: Handle,
}

impl S3 {
    /// Opens a bucket; nothing is sent yet. Calls run on `runtime`, which must not be a thread of it that makes them.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(config: &S3Config, runtime: Handle) -> io::Result<Self> {
        let allows_http = config.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let backoff = BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: BACKOFF_MAX, base: 2.0 };
        let retry = RetryConfig { backoff, max_retries: usize::MAX, retry_timeout: RETRY_TIMEOUT };
        let options = ClientOptions::new().with_timeout(ATTEMPT_TIMEOUT).with_allow_http(allows_http);
        let mut builder = AmazonS3Builder::new()
            .with_region(&config.region)
            .with_bucket_name(&config.bucket)
            .with_access_key_id(&config.access_key)
            .with_secret_access_key(&config.secret_key)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(retry)
            .with_client_options(options);
        if let Some(endpoint) = &config.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let store = builder.build().map_err(io::Error::other)?;
        Ok(Self { store, prefix: config.prefix.trim_matches('/').to_owned(), runtime })
    }

    fn path(&self, name: &str) -> Path {
        match self.prefix.as_str() {
            "" => Path::from(name),
            prefix => Path::from(format!("{prefix}/{name}")),
        }
    }
}

fn told(error: object_store::Error) -> io::Error {
    let kind = match &error {
        object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            io::ErrorKind::PermissionDenied
        }
        _ => io::ErrorKind::NetworkUnreachable,
    };
    io::Error::new(kind, error)
}

impl Remote for S3 {
    fn put(&self, name: &str, bytes: Bytes) -> io::Result<()> {
        self.runtime.block_on(self.store.put(&self.path(name), bytes.into())).map(drop).map_err(told)
    }

    fn create(&self, name: &str, bytes: Bytes) -> io::Result<bool> {
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        match self.runtime.block_on(self.store.put_opts(&self.path(name), bytes.into(), options)) {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(told(error)),
        }
    }

    fn get(&self, name: &str) -> io::Result<Option<Bytes>> {
        let get = async { self.store.get(&self.path(name)).await?.bytes().await };
        match self.runtime.block_on(get) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(told(error)),
        }
    }

    fn get_range(&self, name: &str, offset: u64, bytes: u64) -> io::Result<Bytes> {
        self.runtime.block_on(self.store.get_range(&self.path(name), offset..offset + bytes)).map_err(told)
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let prefix = (!self.prefix.is_empty()).then(|| Path::from(self.prefix.as_str()));
        let list = async {
            let listed = self.store.list_with_delimiter(prefix.as_ref()).await?;
            Ok(listed.objects.into_iter().filter_map(|o| Some((o.location.filename()?.to_owned(), o.size))).collect())
        };
        self.runtime.block_on(list).map_err(told)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match self.runtime.block_on(self.store.delete(&self.path(name))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(told(error)),
        }
    }
}

/// An object that is read like a file.
pub(crate) struct RemoteFile {
    remote: Arc<dyn Remote>,
    name: String,
    bytes: u64,
}

impl RemoteFile {
    pub(crate) fn new(remote: Arc<dyn Remote>, name: String, bytes: u64) -> Self {
        Self { remote, name, bytes }
    }
}

impl StoredFile for RemoteFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.bytes.saturating_sub(offset).min(buffer.len() as u64);
        if length == 0 {
            return Ok(0);
        }
        let found = self.remote.get_range(&self.name, offset, length)?;
        let whole = buffer.get_mut(..found.len()).ok_or_else(|| io::Error::other("more came than was asked for"))?;
        whole.copy_from_slice(&found);
        Ok(found.len())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
