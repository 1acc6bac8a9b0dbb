// The certified OpenID provider, set up as the strictest provider a vault may
// meet: every use of a refresh token rotates it, and an old one seen again
// revokes the whole grant. It adds what the vault's tests need and the package
// leaves open: Entra's on-behalf-of grant, users who owe a second factor, and
// levers under /control.
//
// It is started by tests/support/oidc_provider.rs, prints its issuer as the
// first line, and ends when its standard input does.

import crypto from 'node:crypto';
import http from 'node:http';
import { createLocalJWKSet, exportJWK, jwtVerify, SignJWT } from 'jose';
import { Provider, errors } from 'oidc-provider';

const ACCESS_TOKEN_SECONDS = Number(process.env.ACCESS_TOKEN_SECONDS ?? 3600);
const TENANT = process.env.TENANT ?? 'contoso';
const VAULT_API = 'api://vault';
const ON_BEHALF_OF = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const PROTOCOL_SCOPES = ['openid', 'profile', 'email', 'offline_access'];

// Scopes carry their resource's name in front, as Entra's do.
const RESOURCES = new Map(
  ['https://graph.example', 'https://files.example'].map((resource) => [
    resource,
    ['.default', 'mail.read', 'read'].map((name) => `${resource}/${name}`),
  ]),
);

// The port is known only once the server listens, the provider needs it in its
// issuer, and the server needs the provider to answer: so in this order.
const server = http.createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const signing = await signingKeys();
const { adapter, stored } = unboundedMemory();
const counts = { token: {}, grants_revoked: 0, jwks: 0 };
const secondFactor = new Set();
let answersToLose = 0;
// What is added to the machine's clock; the package reads `Date.now` alone.
let secondsAhead = 0;
const machineNow = Date.now;
Date.now = () => machineNow() + secondsAhead * 1000;

const provider = new Provider(issuer, {
  adapter,
  clients: clients(),
  jwks: { keys: signing.map(({ jwk }) => jwk) },
  cookies: { keys: ['not-used-by-the-tests'] },
  scopes: PROTOCOL_SCOPES,
  claims: { openid: ['sub', 'oid', 'tid'] },
  conformIdTokenClaims: false,
  findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id, oid: id, tid: TENANT }) }),
  // Called after everything was checked and before anything is used.
  rotateRefreshToken: (ctx) => {
    refuseWithoutSecondFactor(ctx.oidc.entities.RefreshToken.accountId);
    return true;
  },
  ttl: {
    AccessToken: ACCESS_TOKEN_SECONDS, RefreshToken: 90 * 86_400, Grant: 365 * 86_400, IdToken: 3600,
    AuthorizationCode: 60, Interaction: 3600, Session: 86_400,
  },
  features: {
    devInteractions: { enabled: false },
    revocation: { enabled: true },
    userinfo: { enabled: false },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      defaultResource: (ctx, _client, oneOf) => resourceOf(ctx.oidc.params.scope) ?? oneOf?.[0],
      getResourceServerInfo: (_ctx, resource) => resourceServerInfo(resource),
    },
  },
});

provider.registerGrantType(ON_BEHALF_OF, exchangeOnBehalfOf, ['assertion', 'requested_token_use', 'scope']);
provider.on('grant.revoked', () => { counts.grants_revoked += 1; });
provider.use(watch);
server.on('request', provider.callback());
process.stdin.on('end', () => process.exit(0)).resume();
console.log(issuer);

/** Counts requests, pulls the levers, and spoils answers on demand. */
async function watch(ctx, next) {
  if (ctx.path.startsWith('/control/')) {
    ctx.body = await control(ctx.path.slice('/control/'.length), ctx.query);
    return;
  }
  await next();
  if (ctx.path === '/jwks') counts.jwks += 1;
  if (ctx.path !== '/token') return;
  const grantType = ctx.oidc?.params?.grant_type ?? 'unknown';
  counts.token[grantType] = (counts.token[grantType] ?? 0) + 1;
  if (ctx.body?.error === 'interaction_required') {
    ctx.body.suberror = 'basic_action';
    ctx.body.claims = JSON.stringify({ access_token: { acrs: { essential: true, values: ['second-factor'] } } });
  }
  if (answersToLose > 0) {
    answersToLose -= 1;
    ctx.respond = false;
    ctx.req.socket.destroy();
  }
}

/** The levers. Each answers with JSON. */
async function control(lever, query) {
  switch (lever) {
    case 'user-token':
      return { token: await userToken(query.user, query.audience, Number(query.expires_in)) };
    case 'refresh-tokens':
      return mintRefreshTokens(Number(query.count), query.client, query.user, query.scope);
    case 'second-factor':
      secondFactor[query.required === 'true' ? 'add' : 'delete'](query.user);
      return {};
    case 'lose-answers':
      answersToLose = Number(query.count);
      return {};
    case 'advance':
      secondsAhead += Number(query.seconds);
      return {};
    case 'counts':
      return { ...counts, alive: [...stored].filter(([key, { consumed }]) => key.startsWith('RefreshToken:') && !consumed).length };
    default:
      throw new Error(`there is no lever ${lever}`);
  }
}

/** Entra's on-behalf-of exchange: a user's token for this API becomes tokens for another. */
async function exchangeOnBehalfOf(ctx) {
  const { assertion, requested_token_use: use, scope = '' } = ctx.oidc.params;
  if (use !== 'on_behalf_of') throw new errors.InvalidRequest('requested_token_use must be on_behalf_of');
  const { client } = ctx.oidc;
  const accountId = await verifiedUser(assertion);
  refuseWithoutSecondFactor(accountId);

  const wanted = scope.split(' ').filter(Boolean);
  const resource = resourceOf(scope);
  const rights = wanted.filter((name) => RESOURCES.get(resource)?.includes(name));
  if (rights.length === 0) throw new errors.InvalidScope('no scope of a known resource', scope);

  const grant = await saveGrant(accountId, client.clientId);
  const accessToken = new provider.AccessToken({
    accountId, client, grantId: grant.jti, gty: 'on_behalf_of', scope: rights.join(' '),
    resourceServer: new provider.ResourceServer(resource, resourceServerInfo(resource)),
  });
  ctx.body = {
    access_token: await accessToken.save(), token_type: 'Bearer', expires_in: accessToken.expiration,
    scope: rights.join(' '),
  };
  if (wanted.includes('offline_access')) {
    ctx.body.refresh_token = await saveRefreshToken(accountId, client, grant.jti, wanted);
  }
  if (wanted.includes('openid')) {
    const idToken = new provider.IdToken({ sub: accountId, oid: accountId, tid: TENANT }, { ctx });
    idToken.scope = 'openid';
    ctx.body.id_token = await idToken.issue({ use: 'idtoken' });
  }
}

async function verifiedUser(assertion) {
  const keys = createLocalJWKSet({ keys: signing.map(({ publicJwk }) => publicJwk) });
  try {
    const { payload } = await jwtVerify(assertion ?? '', keys, { issuer, audience: VAULT_API });
    return payload.oid;
  } catch (error) {
    throw new errors.InvalidGrant(`the assertion was refused: ${error.code}`);
  }
}

function refuseWithoutSecondFactor(accountId) {
  if (secondFactor.has(accountId)) {
    throw new errors.CustomOIDCProviderError('interaction_required', 'the user must show a second factor');
  }
}

/** A grant of everything at every resource, since one refresh token is to serve them all. */
async function saveGrant(accountId, clientId) {
  const grant = new provider.Grant({ accountId, clientId });
  grant.addOIDCScope(PROTOCOL_SCOPES.join(' '));
  for (const [resource, names] of RESOURCES) grant.addResourceScope(resource, names.join(' '));
  await grant.save();
  return grant;
}

function saveRefreshToken(accountId, client, grantId, wanted) {
  // The provider refuses a scope at refresh that is not in here.
  const scopes = new Set([...wanted, ...PROTOCOL_SCOPES, ...[...RESOURCES.values()].flat()]);
  return new provider.RefreshToken({
    accountId, client, grantId, gty: 'on_behalf_of', rotations: 0,
    resource: [...RESOURCES.keys()], scope: [...scopes].join(' '),
  }).save();
}

async function mintRefreshTokens(count, clientId, user, scope) {
  const client = await provider.Client.find(clientId);
  const minted = [];
  for (let n = 0; n < count; n += 1) {
    const name = count === 1 ? user : `${user}-${n}`;
    const grant = await saveGrant(name, clientId);
    minted.push({ user: name, token: await saveRefreshToken(name, client, grant.jti, scope.split(' ')) });
  }
  return minted;
}

function userToken(user, audience, expiresInSeconds) {
  const [{ privateKey, jwk }] = signing;
  const now = Math.floor(Date.now() / 1000);
  return new SignJWT({ oid: user, tid: TENANT, ver: '2.0' })
    .setProtectedHeader({ alg: jwk.alg, kid: jwk.kid, typ: 'JWT' })
    .setIssuer(issuer).setAudience(audience).setSubject(user).setIssuedAt(now)
    .setExpirationTime(now + expiresInSeconds)
    .sign(privateKey);
}

function resourceOf(scope = '') {
  const wanted = scope.split(' ');
  return [...RESOURCES.keys()].find((resource) => wanted.some((name) => name.startsWith(`${resource}/`)));
}

function resourceServerInfo(resource) {
  const names = RESOURCES.get(resource);
  if (!names) throw new errors.InvalidTarget();
  return {
    scope: names.join(' '), audience: resource, accessTokenTTL: ACCESS_TOKEN_SECONDS,
    accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } },
  };
}

function clients() {
  const common = {
    grant_types: ['authorization_code', 'refresh_token', ON_BEHALF_OF], response_types: ['code'],
    redirect_uris: ['http://127.0.0.1/not-used'],
  };
  const list = [{
    ...common, client_id: 'vault', client_secret: 'certified-secret', token_endpoint_auth_method: 'client_secret_post',
  }];
  if (process.env.VAULT_CERT_JWK) {
    const jwk = JSON.parse(process.env.VAULT_CERT_JWK);
    list.push({
      ...common, client_id: 'vault-cert', token_endpoint_auth_method: 'private_key_jwt',
      token_endpoint_auth_signing_alg: jwk.alg, jwks: { keys: [jwk] },
    });
  }
  return list;
}

/** RS256 for ID tokens and users, as Entra signs; ES256 for access tokens. */
function signingKeys() {
  const kinds = [['rsa', { modulusLength: 2048 }, 'RS256'], ['ec', { namedCurve: 'P-256' }, 'ES256']];
  return Promise.all(kinds.map(async ([type, options, alg]) => {
    const { privateKey, publicKey } = crypto.generateKeyPairSync(type, options);
    const names = { kid: `certified-${alg}`, alg, use: 'sig' };
    return {
      privateKey,
      jwk: { ...await exportJWK(privateKey), ...names },
      publicJwk: { ...await exportJWK(publicKey), ...names },
    };
  }));
}

/** The package's own memory forgets all but a thousand entries; this one keeps them. */
function unboundedMemory() {
  const entries = new Map();
  const byGrant = new Map();
  class Memory {
    constructor(model) { this.model = model; }

    key(id) { return `${this.model}:${id}`; }

    async upsert(id, payload) {
      entries.set(this.key(id), payload);
      if (payload.grantId && this.model !== 'Grant') {
        if (!byGrant.has(payload.grantId)) byGrant.set(payload.grantId, new Set());
        byGrant.get(payload.grantId).add(this.key(id));
      }
    }

    async find(id) { return entries.get(this.key(id)); }

    async consume(id) { entries.get(this.key(id)).consumed = Math.floor(Date.now() / 1000); }

    async destroy(id) { entries.delete(this.key(id)); }

    async revokeByGrantId(grantId) {
      for (const key of byGrant.get(grantId) ?? []) {
        if (key.startsWith(`${this.model}:`)) entries.delete(key);
      }
    }
  }
  return { adapter: Memory, stored: entries };
}
