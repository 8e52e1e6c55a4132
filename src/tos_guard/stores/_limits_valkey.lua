#!lua
-- Limits of a fleet: one call of this script is one step of a `LimitEngine`, whole or not at all.
--
-- The rules are those of tos_guard.limits (_counters.py, _admission.py); _limits_valkey_wire.py says what is handed over. Times are
-- milliseconds since 1970, of buckets microseconds; all numbers are whole and below 2^53, where a double is exact.
--
--   KEYS[1]     the epoch of the domain: {id, history, run, since, clock, sound, evicted}, and no end
--   reservation {end, marks}; gone with its lease
--   sliding     {newest slot, total, 13 slots in a ring}; gone when its slots have left the window
--   calendar    {start, end, total}; gone with its window
--   slots       sorted set: who holds one, and until when
--   bucket      when it is full; gone then
--
-- Whatever writes does so after the last return: a script that leaves early has changed nothing but the epoch's clock.

local RING, CAP = 13, 9007199254740991
local DONE, REFUSED, FORGOTTEN, OPEN, GONE, OTHER, CHANGED, WHEN = 0, 1, 2, 3, 4, 5, 6, 7
local SLIDING, CALENDAR, SLOTS = 1, 2, 3
local CHECK_MS, SLACK_MS = 100, 1000
local NEVER_A_REPLICA = 'master_replid2:0000000000000000000000000000000000000000'
local ASK_AGAIN_MS = 1000
local TEST_LIFE_MS = 3600000

local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local call, pack = redis.call, cmsgpack.pack
local operation, number, known, test_time = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- Time, and the epoch -----------------------------------------------------------------------------------------------------------------

local kept = call('MGET', unpack(KEYS))
local epoch = kept[1] and cmsgpack.unpack(kept[1])
local now
if test_time == '' then
    local time = call('TIME')
    now = time[1] * 1000 + floor(time[2] / 1000)
else
    now = tonumber(test_time)
end
if epoch and now < epoch[5] then
    now = epoch[5] -- somebody has set the engine's clock back
end

if operation == 'attach' then
    -- Whether the engine is the one that has counted so far, or what it has lost; see the module in Python.
    local seen_run, is_durable, mode, new_id, age = ARGV[5], ARGV[6] == '1', ARGV[7], ARGV[8], tonumber(ARGV[9])
    local info = call('INFO', 'server', 'replication', 'stats')
    local run, history = string.match(info, 'run_id:(%x+)'), string.match(info, 'master_replid:(%x+)')
    local evicted = tonumber(string.match(info, 'evicted_keys:(%d+)'))
    local never_replica = string.find(info, NEVER_A_REPLICA, 1, true) ~= nil
    local alone = never_replica and string.find(info, 'connected_slaves:0\r', 1, true) ~= nil
    if run ~= seen_run then
        return {number, CHANGED}
    end
    local what = 'same'
    if not epoch then
        if mode == 'look' and known == '' then
            return {number, GONE}
        end
        what = (mode == 'fresh' and known == '') and 'begun' or 'gone'
        epoch = {new_id, history, run, what == 'begun' and 0 or now, now, 0, evicted}
    else
        local is_same_run = epoch[3] == run and (epoch[2] == history or never_replica)
        if not is_same_run and is_durable and alone and epoch[6] == 1 then
            what = 'kept'
        elseif not is_same_run or epoch[7] ~= evicted then
            what = 'changed'
        end
        if known == epoch[1] and test_time == '' and now - age > epoch[5] + CHECK_MS + SLACK_MS then
            what = 'changed' -- somebody has counted later than it remembers: it was given an older memory
        end
        if what == 'kept' and known ~= '' and known ~= epoch[1] then
            what = 'changed' -- likewise: it kept all of a memory in which its processes have not counted last
        end
        if what == 'changed' then
            epoch[1], epoch[4] = new_id, now
        end
    end
    -- Sound is what loses nothing with its process: it says so itself, it said so before it was restarted, and nobody else has a copy.
    epoch[2], epoch[3], epoch[5], epoch[6], epoch[7] = history, run, now, is_durable and alone and 1 or 0, evicted
    if what == 'same' and known ~= '' and known ~= epoch[1] then
        -- Whoever comes from another epoch has counted there until then: nothing of that is known here.
        epoch[4] = max(epoch[4], now - age)
    end
    call('SET', KEYS[1], pack(epoch))
    return {number, DONE, now, epoch[1], epoch[4], what}
end

if not epoch then
    return {number, GONE}
end
if epoch[1] ~= known then
    return {number, OTHER}
end
if now - epoch[5] >= CHECK_MS then
    -- A restarted engine has no script, and is noticed by that. One that was a replica meanwhile may have it: its history is another.
    local info = call('INFO', 'replication', 'stats')
    if not string.find(info, 'master_replid:' .. epoch[2], 1, true) or tonumber(string.match(info, 'evicted_keys:(%d+)')) ~= epoch[7] then
        return {number, CHANGED}
    end
    if not string.find(info, 'connected_slaves:0\r', 1, true) then
        epoch[6] = 0
    end
    epoch[5] = now
    call('SET', KEYS[1], pack(epoch))
end
local since = epoch[4]
local a = {struct.unpack('>' .. string.rep('i8', #ARGV[5] / 8), ARGV[5])}
a[#a] = nil -- where the reading has ended

local function life(ms)
    return test_time == '' and max(1, ms) or TEST_LIFE_MS
end

local function hold(key, member, amount, until_, holders)
    -- The members of one reservation in a set of slots that has so many others.
    for each = 1, amount do
        call('ZADD', key, until_, each == 1 and member or member .. each)
    end
    if holders == 0 then
        call('PEXPIRE', key, life(until_ - now))
    else
        call('PEXPIRE', key, life(until_ - now), 'GT')
    end
end

if operation == 'renew' then
    -- lease, longest lease with slots; then for each reservation its key, how many sets of slots, and for each its key and amount
    local lease, longest = a[1], a[2]
    local until_, at = now + lease, 3
    local may_forget = now < since + longest
    while a[at] do
        local key, sets = a[at], a[at + 1]
        local held = kept[key] and cmsgpack.unpack(kept[key])
        local is_open = held and held[1] > now
        -- What runs was forgotten with the rest: whoever still renews it says so, and the sets are right again when the doubt is over.
        if is_open or (may_forget and not held and sets > 0) then
            held = held or {}
            held[1] = until_
            call('SET', KEYS[key], pack(held), 'PX', life(lease))
            for set = 1, sets do
                local slots = KEYS[a[at + 2 * set]]
                hold(slots, string.sub(KEYS[key], -22), a[at + 2 * set + 1], until_, is_open and 1 or call('ZCARD', slots))
            end
        end
        at = at + 2 + 2 * sets
    end
    return {number, DONE, now}
end

-- Counters, brought up to the present ---------------------------------------------------------------------------------------------------

local rows = {}

local function ring(key, slot)
    local row = rows[key]
    if row then
        return row
    end
    local newest = floor(now / slot)
    row = kept[key] and cmsgpack.unpack(kept[key])
    if not row or newest - row[1] >= RING then
        row = {newest, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
    elseif newest > row[1] then
        local total = row[2]
        for each = row[1] + 1, newest do
            local place = 3 + each % RING
            total = total - row[place]
            row[place] = 0
        end
        row[1], row[2] = newest, total
    end
    rows[key] = row
    return row
end

local function window(key, at)
    -- Nil: none of the windows that the caller knows is the present one.
    local row = rows[key]
    if row then
        return row
    end
    row = kept[key] and cmsgpack.unpack(kept[key])
    if not row or now >= row[2] then
        row = nil
        for each = at, at + 2 do
            if a[each] <= now and now < a[each + 1] then
                row = {a[each], a[each + 1], 0}
            end
        end
    end
    rows[key] = row
    return row
end

local function slots(key)
    local row = rows[key]
    if not row then
        row = {call('ZCOUNT', KEYS[key], '(' .. now, '+inf')}
        rows[key] = row
    end
    return row
end

local function leaves(row, slot, over)
    -- Milliseconds until so much has left the window; at least what is oldest.
    local each = row[1] - RING + 1
    while each < row[1] do
        over = over - row[3 + each % RING]
        if over <= 0 then
            break
        end
        each = each + 1
    end
    return (each + RING) * slot - now
end

local function give_to_ring(row, amount)
    amount = min(amount, CAP - row[2])
    local place = 3 + row[1] % RING
    row[place] = row[place] + amount
    row[2] = row[2] + amount
end

local function full_at(key)
    local at = rows[key]
    if not at then
        at = tonumber(kept[key] or 0)
        rows[key] = at
    end
    return at
end

local function keep_ring(key, row, slot)
    if row[2] > 0 then
        call('SET', KEYS[key], pack(row), 'PX', life((row[1] + RING) * slot - now))
    else
        call('DEL', KEYS[key])
    end
end

local function keep_window(key, row)
    call('SET', KEYS[key], pack(row), 'PX', life(row[2] - now))
end

local function keep_bucket(key, full)
    if full > now * 1000 then
        call('SET', KEYS[key], string.format('%.0f', full), 'PX', life(ceil(full / 1000) - now))
    else
        call('DEL', KEYS[key])
    end
end

local function take_from_bucket(key, amount, limit, burst, span)
    local flow = max(1, limit)
    local full = max(full_at(key), now * 1000) + ceil(amount * span / flow)
    -- After an overage it owes no more than a window, as the counter does; a burst may be larger than the amount.
    rows[key] = min(full, now * 1000 + max(span, ceil(burst * span / flow)))
end

-- Settle ------------------------------------------------------------------------------------------------------------------------------

if operation == 'settle' then
    -- For each charge ten numbers, as of `reserve`; in place of the amount how much more than reserved it took, and its number last but
    -- one in the marks. Of slots the amount that comes back.
    local held = kept[2] and cmsgpack.unpack(kept[2])
    if not held or held[1] <= now then
        return {number, DONE, now}
    end
    for at = 1, #a, 11 do
        if a[at] == CALENDAR and a[at + 2] > 0 and not window(a[at + 1], at + 6) then
            return {number, WHEN, now}
        end
    end
    call('DEL', KEYS[2])
    for at = 1, #a, 11 do
        local kind, key, over, counts, limit, mark = a[at], a[at + 1], a[at + 2], a[at + 3], a[at + 4], held[1 + a[at + 10]] or 0
        if kind == SLIDING then
            local slot, bucket = a[at + 6], a[at + 7]
            if counts == 1 then
                local row = ring(key, slot)
                if over > 0 then
                    give_to_ring(row, over)
                elseif mark > row[1] - RING then
                    local place = 3 + mark % RING
                    local back = min(-over, row[place])
                    row[place], row[2] = row[place] - back, row[2] - back
                end
                keep_ring(key, row, slot)
            end
            if bucket > 0 then
                local burst, span = a[at + 8], a[at + 9]
                if over > 0 then
                    take_from_bucket(bucket, over, limit, burst, span)
                else
                    rows[bucket] = max(0, full_at(bucket) - floor(-over * span / max(1, limit)))
                end
                keep_bucket(bucket, rows[bucket])
            end
        elseif kind == CALENDAR and counts == 1 then
            local row = window(key, at + 6)
            if row and over > 0 then
                row[3] = min(CAP, row[3] + over)
                keep_window(key, row)
            elseif row and mark == row[1] then
                row[3] = row[3] - min(-over, row[3])
                keep_window(key, row)
            end
        elseif kind == SLOTS and counts == 1 then
            local member = string.sub(KEYS[2], -22)
            for each = 1, over do
                call('ZREM', KEYS[key], each == 1 and member or member .. each)
            end
        end
    end
    return {number, DONE, now}
end

-- Reserve, and look -------------------------------------------------------------------------------------------------------------------

-- lease, longest lease with slots; then for each charge: kind, key, amount, whether it counts, limit, whether in shadow, and
-- sliding: length of a slot, key of the bucket or 0, burst, window in microseconds; calendar: four turns of a window; slots: nothing
local is_looking = operation == 'states'
local lease, longest = a[1], a[2]
if not is_looking and kept[2] and cmsgpack.unpack(kept[2])[1] > now then
    return {number, OPEN}
end

local reply = {number, DONE, now, 0, 0}
local marks = {now + lease}
local taken = {}
local doubtful, doubt_ends, refusing, waits = nil, 0, nil, -1
local filled = 5

for at = 3, #a, 10 do
    local kind, key, amount, counts, limit, shadow = a[at], a[at + 1], a[at + 2], a[at + 3], a[at + 4], a[at + 5]
    if is_looking then
        amount = 0
    end
    local row, base, mark, room, known_from
    if kind == SLIDING then
        row = ring(key, a[at + 6])
        base, mark = row[2], row[1]
        known_from = since + RING * a[at + 6] -- a slot more: what was reserved as a block before may be spent until its slot ends
        local bucket, burst = a[at + 7], a[at + 8]
        if bucket > 0 then
            local span, flow = a[at + 9], max(1, limit)
            local whole = ceil(burst * span / flow)
            local spare = whole - max(0, full_at(bucket) - now * 1000)
            room = max(0, min(burst, floor(spare * flow / span)))
            known_from = max(known_from, since + ceil(whole / 1000))
        end
    elseif kind == CALENDAR then
        row = window(key, at + 6)
        if not row then
            return {number, WHEN, now}
        end
        base, mark = row[3], row[1]
        known_from = row[1] < since and row[2] or now
    else
        row = slots(key)
        base, mark = row[1], 0
        known_from = since + longest
    end

    local before = base + (taken[key] or 0)
    local used = counts == 1 and before + amount or before
    local remaining = limit - used
    if room and room - amount < remaining then
        remaining = room - amount
    end
    local lacks = remaining < 0 and amount > 0
    if counts == 1 then
        taken[key] = (taken[key] or 0) + amount
    end
    if since > 0 and shadow == 0 and (amount > 0 or is_looking) and now < known_from and (not doubtful or known_from > doubt_ends) then
        doubtful, doubt_ends = (at - 3) / 10, known_from
    end
    if lacks and shadow == 0 then
        -- Of several, the one that takes longest; -1 stands for ever.
        local wait
        if amount > limit or (room and amount > a[at + 8]) then
            wait = math.huge
        else
            local over = base + amount - limit
            wait = 0
            if over > 0 then
                if kind == SLIDING then
                    wait = leaves(row, a[at + 6], over) * 1000
                else
                    wait = (kind == CALENDAR and row[2] - now or ASK_AGAIN_MS) * 1000
                end
            end
            if room then
                local span, flow = a[at + 9], max(1, limit)
                local spare = ceil(a[at + 8] * span / flow) - ceil(amount * span / flow)
                wait = max(wait, full_at(a[at + 7]) - now * 1000 - spare)
            end
        end
        if wait > waits then
            refusing, waits = (at - 3) / 10, wait
        end
    end

    local reset = 0
    if used > 0 then
        if kind == SLIDING then
            reset = before > 0 and base > 0 and leaves(row, a[at + 6], 1) or (row[1] + RING) * a[at + 6] - now
        else
            reset = kind == CALENDAR and row[2] - now or ASK_AGAIN_MS
        end
    end
    marks[#marks + 1] = mark
    reply[filled + 1], reply[filled + 2], reply[filled + 3], reply[filled + 4] = min(used, CAP), max(0, remaining), reset, lacks and 1 or 0
    filled = filled + 4
end

if refusing then
    -- Nothing is taken: the states are those of before.
    filled = 5
    for at = 3, #a, 10 do
        local kind, key, limit = a[at], a[at + 1], a[at + 4]
        local row, used, reset = rows[key], 0, 0
        if kind == SLIDING then
            used = row[2]
            reset = used > 0 and leaves(row, a[at + 6], 1) or 0
        elseif kind == CALENDAR then
            used = row[3]
            reset = used > 0 and row[2] - now or 0
        else
            used = row[1]
            reset = used > 0 and ASK_AGAIN_MS or 0
        end
        local remaining = max(0, limit - used)
        if kind == SLIDING and a[at + 7] > 0 then
            local span, flow = a[at + 9], max(1, limit)
            local spare = ceil(a[at + 8] * span / flow) - max(0, full_at(a[at + 7]) - now * 1000)
            remaining = min(remaining, max(0, min(a[at + 8], floor(spare * flow / span))))
        end
        reply[filled + 1], reply[filled + 2], reply[filled + 3] = used, remaining, reset
        filled = filled + 4
    end
    reply[2], reply[4], reply[5] = REFUSED, refusing, waits == math.huge and -1 or waits
    return reply
end
if doubtful then
    return {number, FORGOTTEN, now, doubtful, doubt_ends, since}
end
if is_looking then
    return reply
end

call('SET', KEYS[2], pack(marks), 'PX', life(lease))
for at = 3, #a, 10 do
    local kind, key, amount = a[at], a[at + 1], a[at + 2]
    if a[at + 3] == 1 and amount > 0 then
        if kind == SLIDING then
            give_to_ring(rows[key], amount)
            keep_ring(key, rows[key], a[at + 6])
        elseif kind == CALENDAR then
            rows[key][3] = min(CAP, rows[key][3] + amount)
            keep_window(key, rows[key])
        else
            call('ZREMRANGEBYSCORE', KEYS[key], '-inf', now)
            hold(KEYS[key], string.sub(KEYS[2], -22), amount, marks[1], rows[key][1])
        end
    end
    if kind == SLIDING and a[at + 7] > 0 and amount > 0 then
        take_from_bucket(a[at + 7], amount, a[at + 4], a[at + 8], a[at + 9])
        keep_bucket(a[at + 7], rows[a[at + 7]])
    end
end
return reply
