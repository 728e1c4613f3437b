//! Accounts: who may log in, and how a login is checked.
//!
//! An account is a resource of type `Account` with an argon2 hash that no read shows. Checking a password is slow on purpose, so it
//! runs on a blocking thread, a few at a time, and failed logins of one user or one address slow down the next.
//!
//! Programs that run for ever log in by an access token instead: 32 random bytes, which nobody can guess, so that a plain hash of it
//! is kept and checking it costs nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use argon2::{Argon2, PasswordHash, PasswordHasher, PasswordVerifier};
use lockstep_contract::Secret;
use lockstep_contract::services::accounts::{Account, IssueTokenInput, Role, SetInput};
use lockstep_contract::{Error, ErrorKind};
use lockstep_model::{Document, ResourceId, Value, builtin};
use parking_lot::Mutex;
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

use crate::Site;
use crate::caller::{Caller, User};
use crate::inventory::WriteError;
use crate::table::Basic;

/// Password checks at a time: each takes some 20 MiB of memory and a core for some 20 ms.
const CHECKS_AT_ONCE: usize = 2;

/// Logins that may wait for a check; beyond it the answer is `service_unavailable`.
const CHECKS_WAITING_MAX: usize = 256;

/// Failures of one user or address before the next try has to wait.
const FAILURES_FREE: u32 = 5;

/// Longest wait after many failures.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Users and addresses whose failures are remembered; the oldest are forgotten first.
const REMEMBERED_MAX: usize = 10_000;

/// Longest user name and password, in bytes.
const CREDENTIAL_BYTES_MAX: usize = 1024;

/// Slows down guessing, and bounds the work that logins can cause.
pub(crate) struct LoginGuard {
    checks: Semaphore,
    waiting: Semaphore,
    /// Failures in a row, and when the last was. Held for a look-up only.
    failures: Mutex<HashMap<String, (u32, Instant)>>,
    /// Passwords that were right a moment ago, so that a client that sends Basic with every request pays once.
    recent: Mutex<HashMap<[u8; 32], (User, Instant)>>,
}

/// How long a password that was right need not be checked again.
const RECENT_FOR: Duration = Duration::from_secs(60);

impl Default for LoginGuard {
    fn default() -> Self {
        Self {
            checks: Semaphore::new(CHECKS_AT_ONCE),
            waiting: Semaphore::new(CHECKS_WAITING_MAX),
            failures: Mutex::default(),
            recent: Mutex::default(),
        }
    }
}

impl LoginGuard {
    /// How long the user or the address has to wait before the next try.
    fn wait(&self, key: &str) -> Option<Duration> {
        let failures = self.failures.lock();
        let (count, last) = failures.get(key)?;
        let doublings = count.checked_sub(FAILURES_FREE)?.min(6);
        let pause = Duration::from_secs(1 << doublings).min(WAIT_MAX);
        pause.checked_sub(last.elapsed()).filter(|left| !left.is_zero())
    }

    fn failed(&self, keys: &[String]) {
        let mut failures = self.failures.lock();
        if failures.len() >= REMEMBERED_MAX {
            failures.retain(|_, (_, last)| last.elapsed() < WAIT_MAX);
            if failures.len() >= REMEMBERED_MAX {
                failures.clear();
            }
        }
        for key in keys {
            let entry = failures.entry(key.clone()).or_insert((0, Instant::now()));
            *entry = (entry.0.saturating_add(1), Instant::now());
        }
    }

    fn forget(&self, user: &str) {
        self.recent.lock().retain(|_, (known, _)| &*known.name != user);
    }
}

/// Hashes a password for storage.
///
/// # Errors
/// `internal_server_error` when the operating system has no random numbers.
fn hash(password: &str) -> Result<String, Error> {
    Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(|error| {
        tracing::error!(%error, "cannot hash a password");
        Error::internal()
    })
}

fn account_id(user: &str) -> ResourceId {
    ResourceId::new(builtin::ACCOUNT, user.to_lowercase())
}

fn invalid(field: &str, message: &str) -> Error {
    Error::invalid_argument("lockstep.accounts.invalid", field, message)
}

/// The name of an account as it is stored.
fn checked_name(user: &str) -> Result<String, Error> {
    let name = user.to_lowercase();
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '@' | '.' | '-' | '_' | '+' | '\\' | '/');
    if name.is_empty() || name.len() > 200 || !name.chars().all(fits) {
        return Err(invalid("user", "1 to 200 letters, digits and @ . - _ + \\ /"));
    }
    Ok(name)
}

/// What is kept of an access token.
fn token_hash(token: &str) -> String {
    fingerprint(&[token]).iter().map(|b| format!("{b:02x}")).collect()
}

fn unavailable() -> Error {
    Error::new(
        ErrorKind::ServiceUnavailable,
        "lockstep.session.busy",
        "too many logins at once; try again in a moment",
        Vec::new(),
    )
}

impl Site {
    /// Checks a user name and a password that came from `peer`.
    ///
    /// # Errors
    /// `unauthenticated` for every wrong login alike, `service_unavailable` when there are too many at once or after many failures.
    pub async fn log_in(&self, basic: &Basic, peer: IpAddr) -> Result<User, Error> {
        if basic.user.len() > CREDENTIAL_BYTES_MAX || basic.password.0.len() > CREDENTIAL_BYTES_MAX {
            return Err(Error::unauthenticated());
        }
        let name = basic.user.to_lowercase();
        let (recent_key, stored) = {
            let stored = self.view().get(&account_id(&name)).map(|stored| stored.document);
            let hash = stored.as_ref().and_then(|d| d.get("password_hash")).and_then(Value::as_str).unwrap_or_default();
            // Bound to the stored hash: a changed password is not remembered.
            (fingerprint(&[&name, &basic.password.0, hash]), stored)
        };
        if let Some((user, since)) = self.logins.recent.lock().get(&recent_key)
            && since.elapsed() < RECENT_FOR
        {
            return Ok(user.clone());
        }
        let keys = [format!("user {name}"), format!("address {peer}")];
        if keys.iter().any(|key| self.logins.wait(key).is_some()) {
            return Err(unavailable());
        }
        let _place = self.logins.waiting.try_acquire().map_err(|_| unavailable())?;
        let _turn = self.logins.checks.acquire().await.map_err(|_| unavailable())?;
        let password = basic.password.0.clone();
        let checked = tokio::task::spawn_blocking(move || check(stored.as_ref(), &password)).await;
        match checked {
            Ok(Some(role)) => {
                self.logins.failures.lock().remove(&keys[0]);
                let user = User { name: name.into(), role, session: None };
                let mut recent = self.logins.recent.lock();
                recent.retain(|_, (_, since)| since.elapsed() < RECENT_FOR);
                recent.insert(recent_key, (user.clone(), Instant::now()));
                Ok(user)
            }
            Ok(None) => {
                self.logins.failed(&keys);
                tracing::warn!(user = %name, %peer, "login refused");
                Err(Error::unauthenticated())
            }
            Err(error) => {
                tracing::error!(%error, "password check failed");
                Err(Error::internal())
            }
        }
    }

    /// The user whose access token this is.
    pub fn find_token(&self, token: &str) -> Option<User> {
        let (name, _) = token.rsplit_once('.')?;
        let account = self.view().get(&account_id(name))?.document;
        let text = |path: &str| account.get(path).and_then(Value::as_str);
        let is_right = text("token_hash")?.as_bytes().ct_eq(token_hash(token).as_bytes());
        let role = text("role").filter(|_| is_right.into()).and_then(Role::from_name)?;
        Some(User { name: name.to_lowercase().into(), role, session: None })
    }

    /// Gives an account an access token in place of the one it may have; makes the account when there is none.
    ///
    /// # Errors
    /// `invalid_argument` for a name that cannot be or another role than the account has.
    pub async fn issue_token(&self, caller: &Caller, input: IssueTokenInput) -> Result<Secret, Error> {
        let name = checked_name(&input.user)?;
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| {
            tracing::error!(%error, "no random numbers for a token");
            Error::internal()
        })?;
        let random: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let token = format!("{name}.{random}");
        let old = self.view().get(&account_id(&name));
        let mut document = old.map(|old| old.document).unwrap_or_default();
        let role = document.get("role").and_then(Value::as_str).unwrap_or(input.role.name());
        if role != input.role.name() {
            return Err(invalid("role", &format!("the account {name} has the role {role}")));
        }
        document.set("name", Some(Value::from(&*name)));
        document.set("role", Some(Value::from(input.role.name())));
        document.set("token_hash", Some(Value::from(&*token_hash(&token))));
        if let Some(description) = input.description.filter(|d| !d.is_empty()) {
            document.set("description", Some(Value::from(&*description)));
        }
        self.write_document(caller.name(), account_id(&name), document, None).await.map_err(WriteError::into_error)?;
        Ok(Secret(token))
    }

    /// All accounts, in the order of their names.
    pub fn accounts(&self) -> Vec<Account> {
        let view = self.view();
        let ids = view.ids(builtin::ACCOUNT, None);
        ids.filter_map(|id| view.get(&id))
            .filter_map(|stored| {
                let text = |path: &str| stored.document.get(path).and_then(Value::as_str).map(str::to_owned);
                Some(Account {
                    user: text("name")?,
                    role: Role::from_name(&text("role")?)?,
                    description: text("description"),
                    has_token: text("token_hash").is_some(),
                })
            })
            .collect()
    }

    /// Creates an account or changes it.
    ///
    /// # Errors
    /// `invalid_argument` for a name or password that cannot be, `not_allowed_in_current_state` when no administrator would be left.
    pub async fn set_account(&self, caller: &Caller, input: SetInput) -> Result<(), Error> {
        let name = checked_name(&input.user)?;
        let old = self.view().get(&account_id(&name)).map(|old| old.document);
        let kept = |path: &str| old.as_ref().and_then(|old| old.get(path).cloned());
        let password_hash = match input.password {
            Some(password) if password.0.len() < 8 || password.0.len() > CREDENTIAL_BYTES_MAX => {
                return Err(invalid("password", "8 to 1024 bytes"));
            }
            Some(password) => {
                let _turn = self.logins.checks.acquire().await.map_err(|_| unavailable())?;
                let hashed = tokio::task::spawn_blocking(move || hash(&password.0)).await;
                Some(Value::from(&*hashed.map_err(|_| Error::internal())??))
            }
            None if old.is_none() => return Err(invalid("password", "a new account needs one")),
            None => kept("password_hash"),
        };
        if input.role != Role::Administrator {
            self.demand_another_administrator(&name)?;
        }
        let mut document = Document::default();
        document.set("name", Some(Value::from(&*name)));
        document.set("role", Some(Value::from(input.role.name())));
        document.set("password_hash", password_hash);
        document.set("token_hash", kept("token_hash"));
        document.set("description", input.description.filter(|d| !d.is_empty()).map(|d| Value::from(&*d)));
        self.write_document(caller.name(), account_id(&name), document, None).await.map_err(WriteError::into_error)?;
        self.end_sessions(&name);
        Ok(())
    }

    /// Deletes an account.
    ///
    /// # Errors
    /// `not_found`, or `not_allowed_in_current_state` for the last administrator.
    pub async fn delete_account(&self, caller: &Caller, user: &str) -> Result<(), Error> {
        let name = user.to_lowercase();
        self.demand_another_administrator(&name)?;
        self.delete_resource(caller.name(), account_id(&name), None, false).await.map_err(WriteError::into_error)?;
        self.end_sessions(&name);
        Ok(())
    }

    /// Whether there is an account.
    pub fn has_accounts(&self) -> bool {
        self.view().count(builtin::ACCOUNT) > 0
    }

    /// Makes the first administrator when there is no account. Answers whether it did.
    ///
    /// # Errors
    /// As [`Site::set_account`].
    pub async fn ensure_administrator(&self, user: &str, password: &str) -> Result<bool, Error> {
        if self.has_accounts() {
            return Ok(false);
        }
        let input = SetInput {
            user: user.to_owned(),
            role: Role::Administrator,
            password: Some(lockstep_contract::Secret(password.to_owned())),
            description: Some("made at the first start".to_owned()),
        };
        self.set_account(&Caller::Server("setup"), input).await?;
        Ok(true)
    }

    fn end_sessions(&self, user: &str) {
        self.logins.forget(user);
        self.sessions.delete_of(user);
    }

    fn demand_another_administrator(&self, user: &str) -> Result<(), Error> {
        let accounts = self.accounts();
        let is_administrator = |a: &&Account| a.role == Role::Administrator;
        let others = accounts.iter().filter(is_administrator).filter(|a| a.user != user).count();
        let is_one = accounts.iter().filter(is_administrator).any(|a| a.user == user);
        if is_one && others == 0 {
            let message = format!("{user} is the last administrator");
            return Err(Error::new(
                ErrorKind::NotAllowedInCurrentState,
                "lockstep.accounts.last",
                message,
                vec![user.to_owned()],
            ));
        }
        Ok(())
    }
}

/// The role of the account when the password is right. Takes as long when there is no such account.
fn check(account: Option<&Document>, password: &str) -> Option<Role> {
    // The hash of nothing anyone knows, made once: so an unknown user costs the same time as a wrong password.
    static NOBODY: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| hash("no account has this password").unwrap_or_default());
    let text = |path: &str| account.and_then(|d| d.get(path)).and_then(Value::as_str);
    let parsed = PasswordHash::new(text("password_hash").unwrap_or(&NOBODY)).ok()?;
    let is_right = Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok();
    text("role").filter(|_| is_right).and_then(Role::from_name)
}

fn fingerprint(parts: &[&str]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_checked_against_its_hash_only() {
        let mut account = Document::default();
        account.set("role", Some(Value::from("OPERATOR")));
        account.set("password_hash", Some(Value::from(&*hash("right horse").unwrap())));
        assert_eq!(check(Some(&account), "right horse"), Some(Role::Operator));
        assert_eq!(check(Some(&account), "wrong horse"), None);
        assert_eq!(check(None, "no account has this password"), None);
    }

    #[test]
    fn many_failures_make_the_next_try_wait() {
        let guard = LoginGuard::default();
        let key = ["user a".to_owned()];
        (0..FAILURES_FREE - 1).for_each(|_| guard.failed(&key));
        assert_eq!(guard.wait("user a"), None);
        guard.failed(&key);
        assert!(guard.wait("user a").is_some() && guard.wait("user b").is_none());
    }
}
