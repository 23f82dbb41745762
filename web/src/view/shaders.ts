/** The relief's programs: a spectrogram as a texture in, hills of sound out. */

/** x is frequency, low at the left; z is time, the past far away. Picture: column 0 is earliest, row 0 the highest band. */
export const HILLS_VERTEX = /* glsl */ `
uniform sampler2D picture;
uniform float height;
uniform float rise;
varying vec2 place;
varying vec3 world;

float loudness(vec2 at) { return 1.0 - textureLod(picture, at, 1.0).r; }

void main() {
  place = vec2(1.0 - uv.y, 1.0 - uv.x);
  float side = smoothstep(0.0, 0.04, uv.x) * smoothstep(1.0, 0.96, uv.x);
  float loud = loudness(place);
  vec4 at = modelMatrix * vec4(position.x, pow(loud, 1.7) * height * rise * side, position.z, 1.0);
  world = at.xyz;
  gl_Position = projectionMatrix * viewMatrix * at;
}`;

export const HILLS_FRAGMENT = /* glsl */ `
uniform sampler2D picture;
uniform vec3 ramp[5];
uniform vec3 night;
uniform vec3 coral;
uniform float height;
uniform float rise;
uniform float far;
varying vec2 place;
varying vec3 world;

float loudness(vec2 at) { return 1.0 - textureLod(picture, at, 0.8).r; }

vec3 colour(float loud) {
  float at = clamp(loud, 0.0, 1.0) * 4.0;
  vec3 c = mix(ramp[0], ramp[1], clamp(at, 0.0, 1.0));
  c = mix(c, ramp[2], clamp(at - 1.0, 0.0, 1.0));
  c = mix(c, ramp[3], clamp(at - 2.0, 0.0, 1.0));
  return mix(c, ramp[4], clamp(at - 3.0, 0.0, 1.0));
}

void main() {
  const float texel = 1.6 / 512.0;
  float loud = loudness(place);
  float across = loudness(place + vec2(0.0, texel)) - loudness(place - vec2(0.0, texel));
  float along = loudness(place + vec2(texel, 0.0)) - loudness(place - vec2(texel, 0.0));
  vec3 normal = normalize(vec3(across * height * 9.0, 1.0, -along * height * 6.0));
  vec3 light = normalize(vec3(-0.55, 0.75, 0.35));
  float lit = 0.42 + 0.72 * max(0.0, dot(normal, light));
  float shown = loud * rise;
  vec3 c = colour(0.04 + 0.96 * shown) * lit + ramp[3] * pow(max(shown - 0.55, 0.0), 2.0) * 0.6;

  // What is not heard yet lies in the dark, and is lit as it passes under the playhead.
  float ahead = smoothstep(-0.02, 0.10, world.z);
  float grey = dot(c, vec3(0.3, 0.6, 0.1));
  c = mix(c, mix(vec3(grey), c, 0.55) * 0.34, ahead);
  c = mix(c, colour(min(1.0, 0.10 + 1.08 * shown)) * (0.6 + 0.6 * lit), 0.75 * exp(-pow(world.z * 0.9 + 0.4, 2.0)) * (1.0 - ahead));
  c = mix(c, coral * (0.75 + 0.5 * shown), 0.9 * exp(-pow(world.z * 15.0, 2.0)));

  float fade = smoothstep(0.0, 1.0, clamp(-world.z / far, 0.0, 1.0));
  float edge = smoothstep(0.0, 0.05, place.y) * smoothstep(1.0, 0.95, place.y);
  gl_FragColor = vec4(mix(c, night, max(fade, 1.0 - edge)), 1.0);
}`;

export const PLAIN_VERTEX = /* glsl */ `
varying vec2 place;
void main() {
  place = uv;
  gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
}`;

/** A pane of coloured air: bright at its foot, gone at its top. */
export const PANE_FRAGMENT = /* glsl */ `
uniform vec3 coral;
uniform float strength;
varying vec2 place;
void main() {
  float sides = smoothstep(0.0, 0.06, place.x) * smoothstep(1.0, 0.94, place.x);
  float air = 0.05 + 0.26 * pow(1.0 - place.y, 1.3) + 0.16 * smoothstep(0.985, 1.0, place.y) + 0.5 * exp(-place.y * 60.0);
  gl_FragColor = vec4(coral, air * sides * strength);
}`;

/** A glow where the past disappears. */
export const GLOW_FRAGMENT = /* glsl */ `
uniform vec3 tint;
varying vec2 place;
void main() {
  vec2 from = (place - vec2(0.5, 0.36)) * vec2(1.0, 2.1);
  float away = length(from) * 2.0;
  gl_FragColor = vec4(tint, 0.42 * pow(max(0.0, 1.0 - away), 1.8));
}`;
