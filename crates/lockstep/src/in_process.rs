//! Calls of the server's own parts to its operations: the same checks and rules as for everybody, without a transport.

use std::sync::Arc;

use lockstep_contract::{Data, Declared, Encoding, Error, Place, PlainJson, Wire};
use lockstep_site::Site;
use lockstep_site::caller::Caller;
use lockstep_site::table::{Context, Table};

/// A part of the server as a caller.
#[derive(Clone)]
pub struct InProcess {
    /// The site that is asked.
    pub site: Arc<Site>,
    /// What it serves.
    pub table: Arc<Table>,
    /// The part's name, which commits and logs carry.
    pub part: &'static str,
}

/// A result with the headers that say more of it.
pub struct Answered<T> {
    /// The result.
    pub output: T,
    headers: Vec<(&'static str, String)>,
}

impl<T> Answered<T> {
    /// A header by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }
}

impl InProcess {
    /// Calls an operation.
    ///
    /// # Errors
    /// The operation's.
    pub async fn call<O: Declared>(&self, _: O, input: &O::Input) -> Result<Answered<O::Output>, Error> {
        let operation = &O::OPERATION;
        let index = self.table.find(operation.service, operation.name).ok_or_else(Error::internal)?;
        let context =
            Context { site: self.site.clone(), caller: Caller::Server(self.part), operation_id: self.part.into() };
        let input = reread(|json| input.encode(json))?;
        let answer = self.table.entries()[index].call(context, input, Encoding::Plain, false).await?;
        let output = reread(|json| answer.value.encode(json))?;
        let output = O::Output::decode(output, &Place::root(Encoding::Plain)).map_err(|_| Error::internal())?;
        Ok(Answered { output, headers: answer.headers })
    }
}

/// A value as a tree, by way of its plain JSON.
fn reread(write: impl FnOnce(&mut PlainJson)) -> Result<Data, Error> {
    let mut json = PlainJson::default();
    write(&mut json);
    // What an operation without a result writes.
    if json.out.is_empty() {
        return Ok(Data::Null);
    }
    Data::from_json(&json.out).map_err(|_| Error::internal())
}
