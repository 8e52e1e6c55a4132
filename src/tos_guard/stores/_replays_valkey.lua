#!lua
-- Which proofs of possession were used, for a fleet: one call of this script is one use of a proof, whole or not at all.
--
-- Times are milliseconds since 1970.
--
--   KEYS[1]  the state: {id, history, run, since, clock}, and no end
--   KEYS[2]  the use: until when it is remembered; gone then
--   ARGV     number of the call, whether it brings the script, made_after, keep, the caller's time, by how much clocks may differ,
--            id of the state that the caller knows, milliseconds since it was answered there, an id for a new state, time for tests

local FIRST, USED, FORGOTTEN, EVICTS = 0, 1, 2, 3
local CHECK_MS = 100
local NEVER_A_REPLICA = 'master_replid2:0000000000000000000000000000000000000000'
local TEST_LIFE_MS = 3600000

local call = redis.call
local number, is_bringing, made_after, keep = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[4])
local callers, apart, known, age, new_id, test_time = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8]), ARGV[9], ARGV[10]

local kept = call('MGET', KEYS[1], KEYS[2])
local state = kept[1] and cmsgpack.unpack(kept[1])
local now
if test_time == '' then
    local time = call('TIME')
    now = time[1] * 1000 + math.ceil(time[2] / 1000)
else
    now = tonumber(test_time)
end
if state and now < state[5] then
    now = state[5] -- somebody has set the engine's clock back
end

local checked = not state or is_bringing or now - state[5] >= CHECK_MS
if checked then
    local info = call('INFO', 'server', 'replication', 'memory')
    if not string.find(info, 'maxmemory_policy:noeviction', 1, true) then
        return {number, EVICTS}
    end
    local run, history = string.match(info, 'run_id:(%x+)'), string.match(info, 'master_replid:(%x+)')
    local never_replica = string.find(info, NEVER_A_REPLICA, 1, true) ~= nil
    if not state or (state[2] ~= history and not (state[3] == run and never_replica)) then
        -- What was used until now may be lost. Whoever asks, and who let a proof pass before, may have another clock than the engine.
        state = {new_id, '', '', math.max(now, callers) + apart, now}
    end
    state[2], state[3], state[5] = history, run, now
end
if known ~= '' and known ~= state[1] then
    -- Whoever comes from another state has let proofs pass there until then: nothing of that is known here.
    state[4] = math.max(state[4], now - age + apart)
    checked = true
end
if checked then
    call('SET', KEYS[1], cmsgpack.pack(state))
end
if kept[2] and tonumber(kept[2]) > now then
    return {number, USED, state[1]}
end
if made_after <= state[4] then
    return {number, FORGOTTEN, state[1]}
end
call('SET', KEYS[2], string.format('%.0f', now + keep), 'PX', test_time == '' and math.max(1, keep) or TEST_LIFE_MS)
return {number, FIRST, state[1]}
