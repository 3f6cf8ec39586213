-- moved: tell who watches a ticket that it has changed. Stands before the scripts that change one, in one text with them.

local function moved(watchers, id)
    local inboxes = redis.pcall('SMEMBERS', watchers)
    for _, inbox in ipairs(inboxes.err and {} or inboxes) do  -- others may have left anything there
        redis.call('PUBLISH', inbox, 'moved ' .. id)
    end
end
