//! The table of operations: what transports serve.
//!
//! A service registers each of its operations once, with a handler over typed input. The table boxes them, so that a
//! transport needs neither the service nor its types.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use lockstep_contract::{Data, Declared, Encoding, Error, Operation, Place, Wire, Writer};

use crate::Site;
use crate::caller::Caller;

/// One call of an operation.
#[derive(Clone)]
pub struct Context {
    /// The site that is asked.
    pub site: Arc<Site>,
    /// Who asks.
    pub caller: Caller,
    /// The id that ties the log lines of the call together.
    pub operation_id: Arc<str>,
}

/// A user name and a password, as they came.
#[derive(Clone)]
pub struct Basic {
    /// The name.
    pub user: String,
    /// The password.
    pub password: lockstep_contract::Secret,
}

/// A value that an operation answers with, before it is known in which encoding.
pub trait Encode: Send + Sync {
    /// Writes the value.
    fn encode(&self, w: &mut dyn Writer);
}

impl<T: Wire + Send + Sync> Encode for T {
    fn encode(&self, w: &mut dyn Writer) {
        Wire::encode(self, w);
    }
}

/// What an operation answers.
pub struct Answer {
    /// The result.
    pub value: Box<dyn Encode>,
    /// The result as plain JSON, when it is there already: shared between callers who get the same.
    pub plain_json: Option<Bytes>,
    /// Response headers besides those of the transport.
    pub headers: Vec<(&'static str, String)>,
}

impl Answer {
    /// A result and nothing else.
    pub fn new(value: impl Encode + 'static) -> Self {
        Self { value: Box::new(value), plain_json: None, headers: Vec::new() }
    }
}

/// A call under way.
pub type Reply = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

type Handler = Box<dyn Fn(Context, Data, Encoding, bool) -> Reply + Send + Sync>;

/// An operation with its handler.
pub struct Entry {
    /// The declaration.
    pub operation: &'static Operation,
    handler: Handler,
}

impl Entry {
    /// Checks the caller's right, reads the input, and runs the operation. `is_legacy` decides how an unknown field is refused.
    ///
    /// # Errors
    /// Those of the operation; `unauthenticated`, `unauthorized`; `invalid_argument`, `unexpected_input` and `invalid_request` for
    /// input that does not fit.
    pub fn call(&self, context: Context, input: Data, encoding: Encoding, is_legacy: bool) -> Reply {
        if let Err(error) = context.caller.check(self.operation.privilege) {
            return Box::pin(std::future::ready(Err(error)));
        }
        (self.handler)(context, input, encoding, is_legacy)
    }
}

/// All operations of a server.
#[derive(Default)]
pub struct Table {
    entries: Vec<Entry>,
    by_name: HashMap<&'static str, HashMap<&'static str, usize>>,
}

impl Table {
    /// Registers an operation whose handler answers its declared output.
    pub fn register<O: Declared, F, R>(&mut self, _: O, handler: F)
    where
        F: Fn(Context, O::Input) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O::Output, Error>> + Send + 'static,
        O::Output: Sync,
    {
        self.insert::<O>(Box::new(move |context, data, encoding, is_legacy| {
            match O::Input::decode(data, &Place::root(encoding)) {
                Err(fault) => Box::pin(std::future::ready(Err(Error::from_fault(fault, is_legacy)))),
                Ok(input) => {
                    let run = handler(context, input);
                    Box::pin(async move { run.await.map(Answer::new) })
                }
            }
        }));
    }

    /// Registers an operation whose handler answers something that is written like its declared output.
    pub fn register_answer<O: Declared, F, R>(&mut self, _: O, handler: F)
    where
        F: Fn(Context, O::Input) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Answer, Error>> + Send + 'static,
    {
        self.insert::<O>(Box::new(move |context, data, encoding, is_legacy| {
            match O::Input::decode(data, &Place::root(encoding)) {
                Err(fault) => Box::pin(std::future::ready(Err(Error::from_fault(fault, is_legacy)))),
                Ok(input) => Box::pin(handler(context, input)),
            }
        }));
    }

    fn insert<O: Declared>(&mut self, handler: Handler) {
        let operation: &'static Operation = const { &O::OPERATION };
        let previous = self.by_name.entry(operation.service).or_default().insert(operation.name, self.entries.len());
        assert!(previous.is_none(), "{} is registered twice", operation.full_name());
        self.entries.push(Entry { operation, handler });
    }

    /// All operations in the order in which they were registered.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The index of an operation in [`Table::entries`].
    pub fn find(&self, service: &str, operation: &str) -> Option<usize> {
        self.by_name.get(service)?.get(operation).copied()
    }
}
