//! Answers: of each a hash of what is known of it, a stream of its pieces, and a sorted set of who reads it by
//! the time of the last sign; and by name, which answer is meant.
//!
//! Pieces are numbered by the writer (entry `7-0` is the seventh), so that one that is sent twice is there once,
//! and a reader sees what it has missed. The first is kept as long as the answer. All times are the server's. Every key expires.

use std::sync::LazyLock;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use redis::Script;

use super::Redis;
use super::locks::{FENCE, millis};
use crate::store::answers::{
    Addition, Answers, Asked, Claim, Claimed, NOTICE, Note, PAGE, Page, Piece, Presence, Terms,
};
use crate::store::{Fence, StoreError};

/// What all scripts share. `id` is the whole name of an answer's hash.
const COMMON: &str = "
    local t = redis.call('TIME')
    local now = t[1] * 1000 + math.floor(t[2] / 1000)
    local function attend(id, who, reads, given)
      local readers = id .. ':readers'
      if reads == '1' then
        redis.call('ZADD', readers, now, who)
        local ttl = redis.call('PTTL', id)
        if ttl > 0 then redis.call('PEXPIRE', readers, ttl) end
      else redis.call('ZREM', readers, who) end
      if given == '1' then redis.call('HSET', id, 'given', '1') end
    end
    local function touch(id, ttl)
      local names = redis.call('HMGET', id, 'exact', 'loose')
      for _, key in ipairs({id, id .. ':pieces', id .. ':readers'}) do redis.call('PEXPIRE', key, ttl) end
      if names[1] and redis.call('GET', names[1]) == id then redis.call('PEXPIRE', names[1], ttl) end
      if names[2] then redis.call('PEXPIRE', names[2], ttl) end
    end
    local function held(id)
      local h = redis.call('HMGET', id, 'lease', 'over')
      return h[1] and (h[2] or tonumber(h[1]) >= now)
    end
    local function forget(id)
      local names = redis.call('HMGET', id, 'exact', 'loose')
      if names[1] and redis.call('GET', names[1]) == id then redis.call('DEL', names[1]) end
      if names[2] then redis.call('ZREM', names[2], id) end
    end
";

/// Answers that are alike and remembered by their loose name.
const ALIKE: usize = 32;

fn script(code: &str) -> Script {
    Script::new(&format!("{COMMON}{code}"))
}

/// KEYS: exact name, counter of fences, loose name if there is one. Returns what, its fence, the time.
static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    script(&format!(
        "{FENCE}
         local prefix, who, lease, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
         local asked, notice = tonumber(ARGV[5]), tonumber(ARGV[6])
         local function join(id)
           attend(id, who, '1', '0')
           return {{'theirs', string.sub(id, #prefix + 1), now}}
         end
         local id = redis.call('GET', KEYS[1])
         if id and redis.call('EXISTS', id) == 1 then return join(id) end
         if KEYS[3] then
           local unsure = false
           for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
             if redis.call('EXISTS', id) == 0 then redis.call('ZREM', KEYS[3], id)
             elseif not redis.call('HGET', id, 'given') then
               local last = redis.call('ZRANGE', id .. ':readers', -1, -1, 'WITHSCORES')
               local seen = tonumber(last[2] or '0')
               if seen + lease <= now then return join(id) end
               if asked == 0 or seen < asked + notice then unsure = true end
             end
           end
           if unsure then
             if asked == 0 then asked = now end
             return {{'unsure', '0', asked}}
           end
         end
         local fence = fence(KEYS[2])
         local id = prefix .. fence
         redis.call('HSET', id, 'exact', KEYS[1], 'lease', now + lease, 'next', 1, 'size', 0)
         redis.call('SET', KEYS[1], id)
         if KEYS[3] then
           redis.call('HSET', id, 'loose', KEYS[3])
           redis.call('ZADD', KEYS[3], now, id)
           redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -{ALIKE} - 1)
         end
         attend(id, who, '1', '0')
         touch(id, ttl)
         return {{'mine', fence, now}}"
    ))
});

/// KEYS: the answer. ARGV: who, lease, ttl, most, reads, given, number of the first, whether those are the last,
/// and of each piece its kind, whether it begins, and its bytes.
static APPEND: LazyLock<Script> = LazyLock::new(|| {
    script(
        "local id, lease = KEYS[1], tonumber(ARGV[2])
         local h = redis.call('HMGET', id, 'lease', 'next', 'size')
         if not h[1] or tonumber(h[1]) < now then return 0 end
         local next, size, number = tonumber(h[2]), tonumber(h[3]), tonumber(ARGV[7])
         for at = 9, #ARGV, 3 do
           if number >= next then
             redis.call('XADD', id .. ':pieces', number .. '-0',
                        'k', ARGV[at], 'b', ARGV[at + 1], 'd', ARGV[at + 2])
             size, next = size + #ARGV[at + 2], number + 1
           end
           number = number + 1
         end
         local most = tonumber(ARGV[4])
         if size > most then
           while true do
             local first = redis.call('XRANGE', id .. ':pieces', '2-0', '+', 'COUNT', 1)[1]
             if not first or size <= most and first[2][4] == '1' then break end
             size = size - #first[2][6]
             redis.call('XDEL', id .. ':pieces', first[1])
           end
         end
         redis.call('HSET', id, 'lease', now + lease, 'next', next, 'size', size)
         if ARGV[8] == '1' then redis.call('HSET', id, 'over', '1') end
         attend(id, ARGV[1], ARGV[5], ARGV[6])
         -- In between a note does it, every few seconds.
         if h[2] == '1' or ARGV[8] == '1' then touch(id, ARGV[3]) end
         return 1",
    )
});

/// KEYS: answers. ARGV: who, lease, ttl, and of each answer whether it is written, reads, given.
static NOTE: LazyLock<Script> = LazyLock::new(|| {
    script(
        "local all = {}
         for i, id in ipairs(KEYS) do
           all[i] = 0
           if redis.call('EXISTS', id) == 1 then
             local at = 1 + i * 3
             attend(id, ARGV[1], ARGV[at + 1], ARGV[at + 2])
             if held(id) then
               all[i] = 1
               if ARGV[at] == '1' then
                 redis.call('HSET', id, 'lease', now + tonumber(ARGV[2]))
                 touch(id, ARGV[3])
               end
             end
           end
         end
         return all",
    )
});

/// KEYS: the answer. ARGV: who, reads, given, the first number, how many.
static READ: LazyLock<Script> = LazyLock::new(|| {
    script(
        "local id = KEYS[1]
         if redis.call('EXISTS', id) == 0 then return false end
         attend(id, ARGV[1], ARGV[2], ARGV[3])
         local alive = 0
         if held(id) then alive = 1 end
         return {alive, redis.call('XRANGE', id .. ':pieces', ARGV[4] .. '-0', '+', 'COUNT', ARGV[5])}",
    )
});

/// KEYS: the answer. ARGV: who, lease, whether it is to be forgotten if nobody else reads it.
static ELSEWHERE: LazyLock<Script> = LazyLock::new(|| {
    script(
        "local id = KEYS[1]
         local since = now - tonumber(ARGV[2])
         for _, who in ipairs(redis.call('ZRANGEBYSCORE', id .. ':readers', '(' .. since, '+inf')) do
           if who ~= ARGV[1] then return 1 end
         end
         if ARGV[3] == '1' then forget(id) end
         return 0",
    )
});

static FORGET: LazyLock<Script> = LazyLock::new(|| script("forget(KEYS[1]) return 0"));

fn flag(it: bool) -> &'static str {
    if it { "1" } else { "0" }
}

impl Redis {
    fn answer(&self, answer: Fence) -> Vec<u8> {
        self.key("answer", answer.0.to_string())
    }
}

impl Terms {
    fn ttl(self) -> u64 {
        millis(self.lease + self.keep)
    }
}

type Entry = (String, (String, u8, String, u8, String, Vec<u8>));

fn piece((number, (_, kind, _, begins, _, bytes)): Entry) -> Option<(u64, Piece)> {
    let number = number.split('-').next()?.parse().ok()?;
    Some((number, Piece { kind, begins: begins == 1, bytes: Bytes::from(bytes) }))
}

impl Answers for Redis {
    fn claim(&self, claim: Claim, terms: Terms) -> BoxFuture<'_, Result<Claimed, StoreError>> {
        async move {
            let mut script = CLAIM.key(self.key("exact", claim.exact));
            script.key(self.key("fence", ""));
            if let Some(loose) = claim.loose {
                script.key(self.key("loose", loose));
            }
            script.arg(self.key("answer", "")).arg(claim.who).arg(millis(terms.lease)).arg(terms.ttl());
            script.arg(claim.again.map_or(0, |it| it.0)).arg(millis(NOTICE));
            let (what, fence, at): (String, u64, u64) = self.run(&script).await?;
            Ok(match &*what {
                "mine" => Claimed::Mine(Fence(fence)),
                "theirs" => Claimed::Theirs(Fence(fence)),
                _ => Claimed::Unsure(Asked(at)),
            })
        }
        .boxed()
    }

    fn append(&self, addition: Addition, terms: Terms) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            let Presence { reads, is_given } = addition.presence;
            let mut script = APPEND.key(self.answer(addition.answer));
            script.arg(addition.who).arg(millis(terms.lease)).arg(terms.ttl()).arg(terms.most);
            script.arg(flag(reads)).arg(flag(is_given)).arg(addition.from).arg(flag(addition.is_last));
            for piece in &addition.pieces {
                script.arg(piece.kind).arg(flag(piece.begins)).arg(&piece.bytes[..]);
            }
            let is_ours: u8 = self.run(&script).await?;
            Ok(is_ours == 1)
        }
        .boxed()
    }

    fn note(
        &self,
        who: String,
        notes: Vec<Note>,
        terms: Terms,
    ) -> BoxFuture<'_, Result<Vec<bool>, StoreError>> {
        async move {
            let mut script = NOTE.arg(who);
            script.arg(millis(terms.lease)).arg(terms.ttl());
            for note in notes {
                script.key(self.answer(note.answer)).arg(flag(note.writes));
                script.arg(flag(note.presence.reads)).arg(flag(note.presence.is_given));
            }
            let held: Vec<u8> = self.run(&script).await?;
            Ok(held.into_iter().map(|it| it == 1).collect())
        }
        .boxed()
    }

    fn read(
        &self,
        who: String,
        note: Note,
        after: u64,
        _terms: Terms,
    ) -> BoxFuture<'_, Result<Option<Page>, StoreError>> {
        async move {
            let Presence { reads, is_given } = note.presence;
            let mut script = READ.key(self.answer(note.answer));
            script.arg(who).arg(flag(reads)).arg(flag(is_given)).arg(after + 1).arg(PAGE);
            let page: Option<(u8, Vec<Entry>)> = self.run(&script).await?;
            Ok(page.map(|(is_alive, entries)| Page {
                pieces: entries.into_iter().filter_map(piece).collect(),
                is_alive: is_alive == 1,
            }))
        }
        .boxed()
    }

    fn is_read_elsewhere(
        &self,
        who: String,
        answer: Fence,
        forgets: bool,
        terms: Terms,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            let mut script = ELSEWHERE.key(self.answer(answer));
            script.arg(who).arg(millis(terms.lease)).arg(flag(forgets));
            let is_read: u8 = self.run(&script).await?;
            Ok(is_read == 1)
        }
        .boxed()
    }

    fn forget(&self, answer: Fence) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let _: u8 = self.run(&FORGET.key(self.answer(answer))).await?;
            Ok(())
        }
        .boxed()
    }
}
