-- heroes: the tables that the hero profile is mapped to.
-- phase: expand

CREATE TABLE troop_catalog (
    id          integer PRIMARY KEY,
    name        text,
    rarity      integer,
    meta        jsonb NOT NULL DEFAULT '{}',
    extra       jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT sf_now(),
    updated_at  timestamptz NOT NULL DEFAULT sf_now()
);
CREATE TABLE pet_catalog (LIKE troop_catalog INCLUDING ALL);
CREATE TABLE artifact_catalog (LIKE troop_catalog INCLUDING ALL);
COMMENT ON COLUMN troop_catalog.meta IS '{"placeholder": true} until the catalogue knows the id (F-41).';

CREATE TABLE users (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id    text NOT NULL,
    namecode     text NOT NULL CONSTRAINT users_namecode_length CHECK (length(namecode) BETWEEN 1 AND 64),
    external_id  bigint,
    username     text,
    extra        jsonb NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT sf_now(),
    updated_at   timestamptz NOT NULL DEFAULT sf_now(),
    CONSTRAINT users_natural_key UNIQUE (tenant_id, namecode)
);

CREATE TABLE guilds (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id    text NOT NULL,
    external_id  bigint NOT NULL,
    name         text,
    extra        jsonb NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT sf_now(),
    updated_at   timestamptz NOT NULL DEFAULT sf_now(),
    CONSTRAINT guilds_natural_key UNIQUE (tenant_id, external_id)
);

CREATE TABLE guild_members (
    user_id     uuid PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    tenant_id   text NOT NULL,
    guild_id    uuid NOT NULL REFERENCES guilds (id),
    role        text,
    joined_at   timestamptz,
    extra       jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT sf_now(),
    updated_at  timestamptz NOT NULL DEFAULT sf_now()
);
CREATE INDEX guild_members_guild ON guild_members (guild_id);

CREATE TABLE user_troops (
    user_id       uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    troop_id      integer NOT NULL REFERENCES troop_catalog (id),
    tenant_id     text NOT NULL,
    amount        integer NOT NULL DEFAULT 0,
    level         integer NOT NULL DEFAULT 1,
    rarity        integer NOT NULL DEFAULT 0,
    elite_level   integer NOT NULL DEFAULT 0,
    fusion_cards  integer NOT NULL DEFAULT 0,
    traits_owned  integer NOT NULL DEFAULT 0,
    last_seen     timestamptz,
    extra         jsonb NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL DEFAULT sf_now(),
    updated_at    timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (user_id, troop_id)
);
COMMENT ON COLUMN user_troops.last_seen IS 'Null while the profile has it; the time of the previous capture once it left.';

CREATE TABLE user_pets (
    user_id          uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    pet_id           integer NOT NULL REFERENCES pet_catalog (id),
    tenant_id        text NOT NULL,
    amount           integer NOT NULL DEFAULT 0,
    level            integer NOT NULL DEFAULT 1,
    xp               bigint NOT NULL DEFAULT 0,
    orb_fusion_cards integer NOT NULL DEFAULT 0,
    ascension_level  integer NOT NULL DEFAULT 0,
    orbs_used        jsonb NOT NULL DEFAULT '[]',
    last_seen        timestamptz,
    extra            jsonb NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL DEFAULT sf_now(),
    updated_at       timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (user_id, pet_id)
);

CREATE TABLE user_artifacts (
    user_id      uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    artifact_id  integer NOT NULL REFERENCES artifact_catalog (id),
    tenant_id    text NOT NULL,
    level        integer NOT NULL DEFAULT 1,
    xp           bigint NOT NULL DEFAULT 0,
    last_seen    timestamptz,
    extra        jsonb NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT sf_now(),
    updated_at   timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (user_id, artifact_id)
);

CREATE TABLE user_teams (
    user_id        uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    position       integer NOT NULL,
    tenant_id      text NOT NULL,
    name           text,
    banner         integer,
    team_level     integer,
    class          text,
    troops         integer[] NOT NULL DEFAULT '{}',
    override_data  jsonb NOT NULL DEFAULT '{}',
    extra          jsonb NOT NULL DEFAULT '{}',
    created_at     timestamptz NOT NULL DEFAULT sf_now(),
    updated_at     timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (user_id, position)
);
COMMENT ON COLUMN user_teams.troops IS 'Troop ids in slot order; 0 is an empty slot.';

CREATE TABLE user_profile_summary (
    user_id       uuid PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    tenant_id     text NOT NULL,
    level         integer,
    pvp_tier      integer,
    guild_id      uuid REFERENCES guilds (id),
    equipped_pet  jsonb,
    top_troops    jsonb NOT NULL DEFAULT '[]',
    last_seen     timestamptz,
    cached_at     timestamptz NOT NULL DEFAULT sf_now(),
    extra         jsonb NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL DEFAULT sf_now(),
    updated_at    timestamptz NOT NULL DEFAULT sf_now()
);
