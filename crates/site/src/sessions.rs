//! Sessions: who is logged in, and for how long.
//!
//! A session lives in memory and ends by logout, by idleness, at an absolute age, or when its account changes. Only a hash of
//! its token is kept: what leaks from memory or a core file logs nobody in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lockstep_contract::Error;
use lockstep_contract::services::accounts::Role;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::caller::User;

/// SHA-256 of a session's token. Looking it up leaks by timing at most parts of the hash, never of the token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey([u8; 32]);

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey(…)")
    }
}

impl SessionKey {
    fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

/// How long sessions last, and how many there may be.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// A session ends when it was not used for this long.
    pub idle: Duration,
    /// A session ends at this age, used or not.
    pub age: Duration,
    /// Beyond this many the least recently used one ends. Clients that never log out are common, so it is high.
    pub count_max: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { idle: Duration::from_secs(30 * 60), age: Duration::from_secs(24 * 3600), count_max: 50_000 }
    }
}

struct Session {
    user: Arc<str>,
    role: Role,
    created: SystemTime,
    created_at: Instant,
    used: SystemTime,
    used_at: Instant,
}

/// What a session knows of itself.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// The user who logged in.
    pub user: Arc<str>,
    /// When the session began.
    pub created: SystemTime,
    /// When it was last used before this call.
    pub used: SystemTime,
}

/// All sessions of a server.
pub struct Sessions {
    limits: SessionLimits,
    /// Held for a look-up or an insertion only.
    by_key: Mutex<HashMap<SessionKey, Session>>,
}

impl Sessions {
    /// No sessions yet.
    pub fn new(limits: SessionLimits) -> Self {
        Self { limits, by_key: Mutex::new(HashMap::new()) }
    }

    /// Begins a session, and answers its token: 32 hex digits from the operating system's random numbers.
    ///
    /// # Errors
    /// `internal_server_error` when there are no random numbers to be had.
    pub fn create(&self, user: &Arc<str>, role: Role) -> Result<String, Error> {
        let mut bytes = [0u8; 16];
        getrandom::fill(&mut bytes).map_err(|error| {
            tracing::error!(%error, "no random numbers for a session");
            Error::internal()
        })?;
        let token: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let (now, now_at) = (SystemTime::now(), Instant::now());
        let session =
            Session { user: user.clone(), role, created: now, created_at: now_at, used: now, used_at: now_at };
        let mut by_key = self.by_key.lock();
        if by_key.len() >= self.limits.count_max {
            by_key.retain(|_, s| !self.has_ended(s, now_at));
            if by_key.len() >= self.limits.count_max
                && let Some(oldest) = by_key.iter().min_by_key(|(_, s)| s.used_at).map(|(k, _)| *k)
            {
                by_key.remove(&oldest);
            }
        }
        by_key.insert(SessionKey::of(&token), session);
        Ok(token)
    }

    /// The user whose session this is, and uses it.
    pub fn find(&self, token: &str) -> Option<User> {
        let key = SessionKey::of(token);
        let mut by_key = self.by_key.lock();
        let session = by_key.get_mut(&key)?;
        let now_at = Instant::now();
        if self.has_ended(session, now_at) {
            by_key.remove(&key);
            return None;
        }
        session.used = SystemTime::now();
        session.used_at = now_at;
        Some(User { name: session.user.clone(), role: session.role, session: Some(key) })
    }

    /// Whether the session goes on; counts as use. For calls that wait long.
    pub fn touch(&self, key: SessionKey) -> bool {
        let mut by_key = self.by_key.lock();
        match by_key.get_mut(&key) {
            Some(session) if !self.has_ended(session, Instant::now()) => {
                session.used = SystemTime::now();
                session.used_at = Instant::now();
                true
            }
            _ => false,
        }
    }

    /// What the session knows of itself.
    pub fn info(&self, key: SessionKey) -> Option<SessionInfo> {
        let by_key = self.by_key.lock();
        by_key.get(&key).map(|s| SessionInfo { user: s.user.clone(), created: s.created, used: s.used })
    }

    /// Ends a session; whether there was one.
    pub fn delete(&self, key: SessionKey) -> bool {
        self.by_key.lock().remove(&key).is_some()
    }

    /// Ends all sessions of a user.
    pub fn delete_of(&self, user: &str) {
        self.by_key.lock().retain(|_, s| &*s.user != user);
    }

    /// Ends the least recently used sessions of a user until `most` are left: for logins of clients that log in anew for every request, and
    /// never out.
    pub fn keep_newest_of(&self, user: &str, most: usize) {
        let mut by_key = self.by_key.lock();
        let mut own: Vec<(Instant, SessionKey)> =
            by_key.iter().filter(|(_, s)| &*s.user == user).map(|(key, s)| (s.used_at, *key)).collect();
        let too_many = own.len().saturating_sub(most);
        if too_many > 0 {
            own.sort_unstable_by_key(|(used_at, _)| *used_at);
            own[..too_many].iter().for_each(|(_, key)| _ = by_key.remove(key));
        }
    }

    /// Forgets sessions that have ended, and answers how many go on. For a background loop.
    pub fn sweep(&self) -> usize {
        let mut by_key = self.by_key.lock();
        let now_at = Instant::now();
        by_key.retain(|_, s| !self.has_ended(s, now_at));
        by_key.len()
    }

    fn has_ended(&self, session: &Session, now_at: Instant) -> bool {
        now_at.duration_since(session.used_at) > self.limits.idle
            || now_at.duration_since(session.created_at) > self.limits.age
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(idle_ms: u64, age_ms: u64, count_max: usize) -> Sessions {
        let ms = Duration::from_millis;
        Sessions::new(SessionLimits { idle: ms(idle_ms), age: ms(age_ms), count_max })
    }

    #[test]
    fn a_session_ends_by_logout_idleness_age_and_account() {
        let user: Arc<str> = "a@b".into();
        let s = sessions(60_000, 60_000, 9);
        let token = s.create(&user, Role::Operator).unwrap();
        assert_eq!((token.len(), s.find("other").is_none()), (32, true));
        let key = s.find(&token).unwrap().session.unwrap();
        assert!(s.touch(key) && s.delete(key) && !s.touch(key) && s.find(&token).is_none());

        let token = s.create(&user, Role::Operator).unwrap();
        s.delete_of("other");
        assert!(s.find(&token).is_some());
        s.delete_of("a@b");
        assert!(s.find(&token).is_none());

        for s in [sessions(0, 60_000, 9), sessions(60_000, 0, 9)] {
            let token = s.create(&user, Role::Operator).unwrap();
            std::thread::sleep(Duration::from_millis(2));
            assert!(s.find(&token).is_none());
        }
    }

    #[test]
    fn beyond_the_limit_the_least_recently_used_session_ends() {
        let user: Arc<str> = "a@b".into();
        let s = sessions(60_000, 60_000, 2);
        let (a, b) = (s.create(&user, Role::Operator).unwrap(), s.create(&user, Role::Operator).unwrap());
        assert!(s.find(&a).is_some());
        let c = s.create(&user, Role::Operator).unwrap();
        assert!(s.find(&a).is_some() && s.find(&b).is_none() && s.find(&c).is_some());
        s.keep_newest_of("other", 0);
        s.keep_newest_of("a@b", 1);
        assert!(s.find(&a).is_none() && s.find(&c).is_some());
    }
}
