"""The server's steps: Lua scripts, run by EVALSHA.

Every script gets the name of a bucket's generation as its first key, and derives the names of tags, leases and the
epoch from it. They lie in the same slot, because the bucket stands in braces. Generations are compared, never counted.
So if one was evicted or flushed, its entries become dead, and never alive again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

_COMMON = r"""
local sub, byte, call = string.sub, string.byte, redis.call
local base = sub(KEYS[1], 1, -2)
local g = call('GET', KEYS[1])
if g and #g ~= 16 then g = false end

local function generation(fresh)        -- makes the generation if there is none; returns 1 if it did
  if g then return 0 end
  g = fresh
  call('SET', KEYS[1], g)
  return 1
end

local function tags_end(v)              -- the offset of the tags' end; nil: they are damaged
  if math.floor(byte(v, 5) / 2) % 2 == 0 then return 21 end
  local at = 23
  for i = 1, byte(v, 22) or 0 do
    if at + 17 > #v then return nil end
    at = at + 18 + byte(v, at) * 256 + byte(v, at + 1)
  end
  return at - 1
end

local function live(v)
  if not v or not g or #v < 21 or sub(v, 6, 21) ~= g or sub(v, 1, 3) ~= '\203x\3' then return false end
  if math.floor(byte(v, 5) / 2) % 2 == 0 then return true end
  local at = 23
  for i = 1, byte(v, 22) or 0 do
    if at + 17 > #v then return false end
    local size = byte(v, at) * 256 + byte(v, at + 1)
    local known = call('GET', base .. 't:' .. sub(v, at + 2, at + 1 + size))
    if not known or sub(known, 1, 16) ~= sub(v, at + 2 + size, at + 17 + size) then return false end
    at = at + 18 + size
  end
  return true
end

local function kept(v)                  -- milliseconds for which an entry is kept after its deadline
  if math.floor(byte(v, 5) / 16) % 2 == 0 then return 0 end
  local at = tags_end(v)
  if not at or at + 4 > #v then return 0 end
  return struct.unpack('>I4', v, at + 1)
end

local function present(key, v)          -- whether an entry is live and not stale
  if not live(v) then return false end
  local beyond = kept(v)
  if beyond == 0 then return true end
  local left = call('PTTL', key)
  return left < 0 or left > beyond
end

local function tagged(from, n, fresh)   -- the block of n tags, and whether each generation was made
  if n == 0 then return '', '' end
  local block, made = {string.char(n)}, {}
  for i = from, from + n - 1 do
    local name, tag = base .. 't:' .. ARGV[i], call('GET', base .. 't:' .. ARGV[i])
    made[#made + 1] = '0'
    if not tag or sub(tag, 17) ~= g then
      tag = fresh .. g
      call('SET', name, tag)
      made[#made] = '1'
    end
    block[#block + 1] = struct.pack('>I2', #ARGV[i]) .. ARGV[i] .. sub(tag, 1, 16)
  end
  return table.concat(block), table.concat(made)
end

local function with_tags(head, block)
  if block == '' then return head end
  return sub(head, 1, 4) .. string.char(byte(head, 5) + 2)
end

local function put(key, value, px)
  if px == '' then call('SET', key, value) else call('SET', key, value, 'PX', px) end
end

local function lease_of(key) return base .. 'l:' .. sub(key, #base + 3) end
local function value_at(key) return call('MGET', key)[1] end    -- unlike GET, it returns nil for other types
"""

# KEYS: generation, entries. -> for each: its length (4 bytes, all ones: none), milliseconds to live (a double),
# envelope
_READ = r"""
local values = call('MGET', unpack(KEYS, 2))
local out = {}
for i = 1, #values do
  local v = values[i]
  if live(v) then
    out[2 * i - 1] = struct.pack('>I4d', #v, call('PTTL', KEYS[i + 1]))
    out[2 * i] = v
  else
    out[2 * i - 1] = '\255\255\255\255\0\0\0\0\0\0\0\0'
    out[2 * i] = ''
  end
end
return table.concat(out)
"""

# ARGV: fresh, number of tags, tags, then for each key head, body, milliseconds -> whether the generation was made, and
# whether each tag was
_WRITE = r"""
local n = tonumber(ARGV[2])
local made = generation(ARGV[1])
local block, tags_made = tagged(3, n, ARGV[1])
local at = 3 + n
for i = 2, #KEYS do
  put(KEYS[i], with_tags(ARGV[at], block) .. g .. block .. ARGV[at + 1], ARGV[at + 2])
  call('UNLINK', lease_of(KEYS[i]))
  at = at + 3
end
return made .. tags_made
"""

# The start of a script that must take effect once, however often it is sent. KEYS[3]: the record that it was done;
# ARGV[2]: the latest time at which it may be done (empty: none)
_ONCE = r"""
if ARGV[2] ~= '' then
  local now = call('TIME')
  now = now[1] * 1000 + math.floor(now[2] / 1000)
  if now > tonumber(ARGV[2]) then return redis.error_reply('LATE it is too late') end
end
local done = call('GET', KEYS[3])
if done then return done end
local function has_done(what)
  call('SET', KEYS[3], what, 'PX', 60000)
  return what
end
"""

# KEYS: generation, entry, record. ARGV: fresh, latest time, then as for _WRITE of one key -> empty: the entry is
# present, and nothing was done; else as _WRITE
_ADD = _ONCE + r"""
if present(KEYS[2], value_at(KEYS[2])) then return '' end
local n = tonumber(ARGV[3])
local made = generation(ARGV[1])
local block, tags_made = tagged(4, n, ARGV[1])
put(KEYS[2], with_tags(ARGV[4 + n], block) .. g .. block .. ARGV[5 + n], ARGV[6 + n])
call('UNLINK', lease_of(KEYS[2]))
return has_done(made .. tags_made)
"""

# KEYS: generation, entry, record. ARGV: fresh, latest time, digest of the entry that the caller has seen (empty: none),
# milliseconds for a new one, head, body (both empty: delete it), and whether a present entry keeps its lifetime and its
# tags (1) -> 0: the entry has changed, and nothing was done; else 1, and whether the generation was made
_SWAP = _ONCE + r"""
local v = value_at(KEYS[2])
local seen = live(v) and redis.sha1hex(v) or ''
if seen ~= ARGV[3] then return '0' end
call('UNLINK', lease_of(KEYS[2]))
if ARGV[5] == '' then
  call('UNLINK', KEYS[2])
  return has_done('10')
end
local made = generation(ARGV[1])
if seen ~= '' and ARGV[7] == '1' then
  local tags = sub(v, 22, tags_end(v))
  call('SET', KEYS[2], with_tags(ARGV[5], tags) .. g .. tags .. ARGV[6], 'KEEPTTL')
else
  put(KEYS[2], ARGV[5] .. g .. ARGV[6], ARGV[4])
end
return has_done('1' .. made)
"""

# -> how many were present
_DELETE = r"""
local n = 0
for i = 2, #KEYS do
  if present(KEYS[i], value_at(KEYS[i])) then n = n + 1 end
  call('UNLINK', KEYS[i], lease_of(KEYS[i]))
end
return n
"""

# -> milliseconds to live; -1: never expires, -2: absent
_TTL = r"""
local v = value_at(KEYS[2])
if not live(v) then return -2 end
local left, beyond = call('PTTL', KEYS[2]), kept(v)
if beyond == 0 or left < 0 then return left end     -- 0: less than a millisecond to live
return left > beyond and left - beyond or -2
"""

# ARGV: milliseconds, or empty for no expiry -> 1: done
_TOUCH = r"""
local v = value_at(KEYS[2])
if not present(KEYS[2], v) then return 0 end
if ARGV[1] == '' then
  call('PERSIST', KEYS[2])
else
  call('PEXPIRE', KEYS[2], string.format('%.0f', ARGV[1] + kept(v)))
end
return 1
"""

# KEYS: generation, entry, record. ARGV: fresh, latest time, amount, milliseconds for a new entry, head, seal of a
# counter with the entry's tags (empty without a secret). If the caller has looked at the entry, also its digest, and
# whether it is an int (1) or as good as absent (0) -> whether the generation was made, and the sum; or {entry}, which
# only the caller can judge
_INCREMENT = _ONCE + r"""
local function digits(s)
  local negative = sub(s, 1, 1) == '-'
  if negative then s = sub(s, 2) end
  local d = {}
  for i = #s, 1, -7 do d[#d + 1] = tonumber(sub(s, math.max(1, i - 6), i)) end
  return negative, d
end
local function smaller(a, b)
  if #a ~= #b then return #a < #b end
  for i = #a, 1, -1 do if a[i] ~= b[i] then return a[i] < b[i] end end
  return false
end
local function add(a, b)
  if #a < 15 and #b < 15 then return string.format('%.0f', tonumber(a) + tonumber(b)) end
  local na, x = digits(a)
  local nb, y = digits(b)
  if smaller(x, y) then na, nb, x, y = nb, na, y, x end
  local sign, carry, out = (na == nb) and 1 or -1, 0, {}
  for i = 1, #x do
    local d = x[i] + sign * (y[i] or 0) + carry
    carry = 0
    if d < 0 then d = d + 10000000; carry = -1 end
    if d >= 10000000 then d = d - 10000000; carry = 1 end
    out[i] = d
  end
  if carry == 1 then out[#out + 1] = 1 end
  while #out > 1 and out[#out] == 0 do out[#out] = nil end
  local text = {string.format('%d', out[#out])}
  for i = #out - 1, 1, -1 do text[#text + 1] = string.format('%07d', out[i]) end
  text = table.concat(text)
  if na and text ~= '0' then text = '-' .. text end
  return text
end

local made = generation(ARGV[1])
local v, seal, sum = value_at(KEYS[2]), ARGV[6], nil
local looked = v and ARGV[7] ~= '' and redis.sha1hex(v) == ARGV[7]
if present(KEYS[2], v) and not (looked and ARGV[8] == '0') then
  local kind, at = sub(v, 4, 4), tags_end(v) or #v
  local number = sub(v, at + 1 + #seal + (kept(v) > 0 and 4 or 0))
  local plain = byte(v, 5) == byte(ARGV[5], 5) and (kind == 'N' or (kind == 'I' and seal == ''))
  local known = looked or (plain and sub(v, 22, 21 + #seal) == seal)
  if not known or #number > 4300 or not string.match(number, '^%-?%d+$') then return {v} end
  sum = add(number, ARGV[3])
  if #sum > 4300 then return redis.error_reply('TOOLONG the sum would have too many digits') end
  local tags = sub(v, 22, at)
  local left = kept(v) > 0 and call('PTTL', KEYS[2]) - kept(v) or -1
  call('SET', KEYS[2], with_tags(ARGV[5], tags) .. g .. tags .. seal .. sum, 'KEEPTTL')
  if left > 0 then call('PEXPIRE', KEYS[2], left) end
else
  sum = ARGV[3]
  put(KEYS[2], ARGV[5] .. g .. seal .. sum, ARGV[4])
end
call('UNLINK', lease_of(KEYS[2]))
return has_done(made .. sum)
"""

# KEYS: generation, entry, lease, and the error of the leader that the caller waited for, if it did
# ARGV: fresh, token, milliseconds, digest of a value that is no good (or empty), and for a refresh: the milliseconds
# below which a present value is due (else empty)
# -> {1, value, milliseconds}: it is present; {2, milliseconds, token}: another caller leads; {3}: this caller leads;
# {4, failure}: that leader has failed; {5}: there is nothing to refresh
_LEAD = r"""
local v = value_at(KEYS[2])
if live(v) and (ARGV[4] == '' or redis.sha1hex(v) ~= ARGV[4]) then
  local left = call('PTTL', KEYS[2])
  if ARGV[5] == '' or left < 0 or left >= tonumber(ARGV[5]) then return {1, v, left} end
elseif ARGV[5] ~= '' then
  return {5}
end
local failure = KEYS[4] and value_at(KEYS[4])
if failure then return {4, failure} end
local made = generation(ARGV[1])
local lease = call('GET', KEYS[3])
if lease and sub(lease, 1, 16) == g then return {2, call('PTTL', KEYS[3]), sub(lease, 17, 32)} end
call('SET', KEYS[3], g .. ARGV[2] .. (call('GET', base .. 'e') or ''), 'PX', ARGV[3])
return {3, made}
"""

# ARGV: token, fresh, head, body, milliseconds, number of tags, tags -> {1, tags made}: stored; {0}: the lease was lost
_COMPLETE = r"""
local lease = call('GET', KEYS[3])
if not lease or sub(lease, 17, 32) ~= ARGV[1] then return {0} end
local n = tonumber(ARGV[6])
if sub(lease, 1, 16) ~= g or (n > 0 and sub(lease, 33) ~= (call('GET', base .. 'e') or '')) then
  call('UNLINK', KEYS[3])
  return {0}
end
local block, made = tagged(7, n, ARGV[2])
put(KEYS[2], with_tags(ARGV[3], block) .. g .. block .. ARGV[4], ARGV[5])
call('UNLINK', KEYS[3])
return {1, made}
"""

# KEYS: generation, lease, failure. ARGV: token, head, body, milliseconds
# -> 1: waiters will find the error; 0: the lease was lost
_FAIL = r"""
local lease = call('GET', KEYS[2])
if not lease or sub(lease, 17, 32) ~= ARGV[1] then return 0 end
call('UNLINK', KEYS[2])
if sub(lease, 1, 16) ~= g then return 0 end
put(KEYS[3], ARGV[2] .. ARGV[1] .. ARGV[3], ARGV[4])
return 1
"""

# KEYS: generation, leases. ARGV: token, milliseconds (empty: give the leases up) -> how many the token held
_LEASE = r"""
local n = 0
for i = 2, #KEYS do
  local lease = call('GET', KEYS[i])
  if lease and sub(lease, 17, 32) == ARGV[1] then
    n = n + 1
    if ARGV[2] == '' then call('UNLINK', KEYS[i]) else call('PEXPIRE', KEYS[i], ARGV[2]) end
  end
end
return n
"""

# KEYS: generation, entries. ARGV: fresh, token, milliseconds -> whether the generation was made, and for each entry
# 1: it is present; 2: another caller leads; 3: this caller leads
_LEAD_MANY = r"""
local out, epoch = {generation(ARGV[1])}, call('GET', base .. 'e') or ''
for i = 2, #KEYS do
  local name = lease_of(KEYS[i])
  local lease = call('GET', name)
  if present(KEYS[i], value_at(KEYS[i])) then
    out[i] = 1
  elseif lease and sub(lease, 1, 16) == g and sub(lease, 17, 32) ~= ARGV[2] then
    out[i] = 2
  else
    call('SET', name, g .. ARGV[2] .. epoch, 'PX', ARGV[3])
    out[i] = 3
  end
end
return table.concat(out)
"""

# KEYS: generation, entries. ARGV: token, then for each entry head, body, milliseconds
# -> for each 1: stored; 0: the lease was lost
_COMPLETE_MANY = r"""
local out = {}
for i = 2, #KEYS do
  local name, at = lease_of(KEYS[i]), 3 * i - 4
  local lease = call('GET', name)
  out[i - 1] = 0
  if lease and sub(lease, 17, 32) == ARGV[1] then
    if sub(lease, 1, 16) == g then
      put(KEYS[i], ARGV[at] .. g .. ARGV[at + 1], ARGV[at + 2])
      out[i - 1] = 1
    end
    call('UNLINK', name)
  end
end
return table.concat(out)
"""

# ARGV: fresh. All earlier entries become dead, because they are of another generation. A full server does not stop a
# script that has begun to write, so the old generation is removed first.
_CLEAR = r"""
call('UNLINK', KEYS[1])
call('SET', KEYS[1], ARGV[1])
return 1
"""

# KEYS: generation, tag. ARGV: fresh -> 1: some entry may have had the tag
_INVALIDATE_TAG = r"""
call('UNLINK', base .. 'e')
call('SET', base .. 'e', ARGV[1])
if not g or call('EXISTS', KEYS[2]) == 0 then return 0 end
call('SET', KEYS[2], ARGV[1] .. g)
return 1
"""

# KEYS: generation, entries, leases and tags. Removes those of older generations -> how many
_CLEAN = r"""
local n = 0
for i = 2, #KEYS do
  local letter, v = sub(KEYS[i], #base + 1, #base + 1), value_at(KEYS[i])
  local of = v and ((letter == 'v' and sub(v, 6, 21)) or (letter == 'l' and sub(v, 1, 16)) or sub(v, 17, 32))
  if of ~= g then n = n + call('UNLINK', KEYS[i]) end
end
return n
"""


class Script:
    """A script, and the digest by which the server knows it."""

    def __init__(self, body: str) -> None:
        self.text = (_COMMON + body).encode()
        self.digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


READ = Script(_READ)
WRITE = Script(_WRITE)
ADD = Script(_ADD)
SWAP = Script(_SWAP)
DELETE = Script(_DELETE)
TTL = Script(_TTL)
TOUCH = Script(_TOUCH)
INCREMENT = Script(_INCREMENT)
LEAD = Script(_LEAD)
COMPLETE = Script(_COMPLETE)
FAIL = Script(_FAIL)
LEASE = Script(_LEASE)
LEAD_MANY = Script(_LEAD_MANY)
COMPLETE_MANY = Script(_COMPLETE_MANY)
CLEAR = Script(_CLEAR)
INVALIDATE_TAG = Script(_INVALIDATE_TAG)
CLEAN = Script(_CLEAN)

BY_DIGEST = {
    script.digest: script
    for script in (
        READ, WRITE, ADD, SWAP, DELETE, TTL, TOUCH, INCREMENT, LEAD, COMPLETE, FAIL, LEASE, LEAD_MANY, COMPLETE_MANY,
        CLEAR, INVALIDATE_TAG, CLEAN,
    )
}

STORING = frozenset(script.digest for script in (WRITE, ADD, SWAP, INCREMENT, COMPLETE_MANY))
"""The digests of scripts that cannot succeed on a full server."""
WRITING = STORING | {script.digest for script in (DELETE, CLEAR, INVALIDATE_TAG)}
"""The digests of scripts that cannot succeed on a server that refuses writes."""


def script_call(script: Script, keys: Sequence[bytes], *arguments: Any) -> list[Any]:
    """The command that runs a script."""
    return [b"EVALSHA", script.digest, len(keys), *keys, *arguments]
