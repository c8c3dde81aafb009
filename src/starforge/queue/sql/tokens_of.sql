-- tokens_of: the tokens of one worker, asked for where an answer about them was lost.                   (Q-47, J-34)
-- takes   worker_id uuid
-- gives   rows (scope, name, key, slot), each limit's slots ascending
-- index   none: it is seldom asked, and there are about as many tokens as jobs run under limits
SELECT scope, name, key, slot FROM limit_tokens WHERE worker_id = $1 ORDER BY scope, name, key, slot
