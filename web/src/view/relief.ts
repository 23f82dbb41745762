/** Clips in, a landscape of sound out: one displaced plane a clip, moved by a single number a frame. */

import {
  AdditiveBlending,
  Color,
  LinearFilter,
  LinearMipmapLinearFilter,
  Mesh,
  NoColorSpace,
  PerspectiveCamera,
  PlaneGeometry,
  Scene,
  ShaderMaterial,
  Texture,
  Vector3,
  WebGLRenderer,
} from "three";

import { CORAL, NIGHT, type Ramp } from "./palette";
import { GLOW_FRAGMENT, HILLS_FRAGMENT, HILLS_VERTEX, PANE_FRAGMENT, PLAIN_VERTEX } from "./shaders";
import type { ClipPicture, TimelineView } from "./view";

/** The world's units: a clip is as long as it is wide. */
const WIDTH = 8;
const LENGTH = 6.4;
const HEIGHT = 1.5;
const FAR_CLIPS = 6.5;
const RISE_MS = 1400;

/** Segments of a plane near the playhead, and further away; the second entry and those after are for slower machines. */
const GRIDS = [
  { near: 256, away: 128, pixelRatio: 2 },
  { near: 160, away: 80, pixelRatio: 1 },
  { near: 96, away: 48, pixelRatio: 0.7 },
];
const SLOW_MS = 27;
const JUDGED_FRAMES = 50;
const JUDGED_MS = 2000;

/** Renderers that are processors in disguise. */
const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render/i;

interface Hill {
  mesh: Mesh<PlaneGeometry, ShaderMaterial>;
  texture: Texture;
  start: number;
  born: number;
}

export class Relief implements TimelineView {
  private readonly renderer: WebGLRenderer;
  private readonly scene = new Scene();
  private readonly camera = new PerspectiveCamera(38, 1, 0.1, 90);
  private readonly hills = new Map<number, Hill>();
  private readonly pane: ShaderMaterial;
  private readonly glow: ShaderMaterial;
  private grids: { near: PlaneGeometry; away: PlaneGeometry };
  private level = 0;
  private size = { width: 1, height: 1, pixelRatio: 1 };
  private judged = { since: 0, frames: 0 };
  private tint = new Color("#1f8577");
  private readonly tintGoal = new Color("#1f8577");

  /**
   * @param clipFrames frames of a whole clip.
   * @param inSoftware whether a processor may draw it, slowly, where there is no graphics chip.
   * @throws Error without WebGL 2.
   */
  constructor(
    canvas: HTMLCanvasElement,
    private readonly clipFrames: number,
    inSoftware: boolean,
  ) {
    this.renderer = new WebGLRenderer({
      canvas,
      antialias: true,
      powerPreference: "high-performance",
      failIfMajorPerformanceCaveat: !inSoftware,
    });
    if (!inSoftware && SOFTWARE.test(this.rendererName())) {
      this.renderer.dispose();
      throw new Error("WebGL without a graphics chip");
    }
    this.renderer.setClearColor(NIGHT);
    this.grids = this.makeGrids();
    this.pane = new ShaderMaterial({
      vertexShader: PLAIN_VERTEX,
      fragmentShader: PANE_FRAGMENT,
      uniforms: { coral: { value: flat(CORAL) }, strength: { value: 1 } },
      transparent: true,
      depthWrite: false,
      blending: AdditiveBlending,
    });
    const pane = new Mesh(new PlaneGeometry(WIDTH, 2.2).translate(0, 1.1, 0), this.pane);
    pane.renderOrder = 2;
    this.glow = new ShaderMaterial({
      vertexShader: PLAIN_VERTEX,
      fragmentShader: GLOW_FRAGMENT,
      uniforms: { tint: { value: this.tint } },
      transparent: true,
      depthWrite: false,
      blending: AdditiveBlending,
    });
    const glow = new Mesh(new PlaneGeometry(70, 34), this.glow);
    glow.position.set(0, 4, -LENGTH * FAR_CLIPS - 8);
    glow.renderOrder = -1;
    this.scene.add(pane, glow);
  }

  setClips(clips: readonly ClipPicture[]): void {
    const wanted = new Set(clips.map((clip) => clip.id));
    for (const [id, hill] of this.hills) if (!wanted.has(id)) this.remove(id, hill);
    for (const clip of clips) {
      const hill = this.hills.get(clip.id);
      if (hill) hill.start = clip.start;
      else this.hills.set(clip.id, this.raise(clip));
    }
    const newest = clips.at(-1);
    if (newest) this.tintGoal.setRGB(...newest.ramp[2]!);
  }

  resize(width: number, height: number, pixelRatio: number): void {
    this.size = { width, height, pixelRatio };
    const upright = height > width;
    this.camera.aspect = width / height;
    this.camera.fov = upright ? 52 : 36;
    // To the right of the words where there is room, under them on a phone.
    this.camera.position.set(upright ? 0 : -3.4, upright ? 6.6 : 5.0, upright ? 10.5 : 10.2);
    this.camera.lookAt(new Vector3(upright ? 0 : -2.2, upright ? -1.1 : 0.4, upright ? -4 : -4.5));
    this.camera.updateProjectionMatrix();
    this.renderer.setPixelRatio(Math.min(pixelRatio, GRIDS[this.level]!.pixelRatio));
    this.renderer.setSize(width, height, false);
  }

  draw(frame: number, nowMs: number): boolean {
    const unit = LENGTH / this.clipFrames;
    for (const hill of this.hills.values()) {
      const { mesh } = hill;
      const centre = (hill.start + this.clipFrames / 2 - frame) * unit;
      mesh.position.z = centre;
      mesh.visible = centre > -LENGTH * (FAR_CLIPS + 0.5) && centre < LENGTH * 3;
      mesh.geometry = centre > -LENGTH * 1.6 ? this.grids.near : this.grids.away;
      const age = hill.born ? Math.min(1, (nowMs - hill.born) / RISE_MS) : 0;
      hill.born ||= nowMs;
      mesh.material.uniforms["rise"]!.value = 1 - (1 - age) ** 3;
    }
    this.tint.lerp(this.tintGoal, 0.02);
    this.renderer.render(this.scene, this.camera);
    return this.judge(nowMs);
  }

  dispose(): void {
    for (const [id, hill] of this.hills) this.remove(id, hill);
    this.renderer.dispose();
  }

  private raise(clip: ClipPicture): Hill {
    const texture = new Texture(clip.picture);
    texture.colorSpace = NoColorSpace;
    texture.flipY = false;
    texture.minFilter = LinearMipmapLinearFilter;
    texture.magFilter = LinearFilter;
    texture.generateMipmaps = true;
    texture.needsUpdate = true;
    const material = new ShaderMaterial({
      vertexShader: HILLS_VERTEX,
      fragmentShader: HILLS_FRAGMENT,
      uniforms: {
        picture: { value: texture },
        ramp: { value: vectors(clip.ramp) },
        night: { value: flat(NIGHT) },
        coral: { value: flat(CORAL) },
        height: { value: HEIGHT },
        rise: { value: 0 },
        far: { value: LENGTH * FAR_CLIPS },
      },
    });
    const mesh = new Mesh(this.grids.near, material);
    mesh.frustumCulled = false;
    this.scene.add(mesh);
    return { mesh, texture, start: clip.start, born: 0 };
  }

  private remove(id: number, hill: Hill): void {
    this.scene.remove(hill.mesh);
    hill.mesh.material.dispose();
    hill.texture.dispose();
    this.hills.delete(id);
  }

  private rendererName(): string {
    const gl = this.renderer.getContext();
    const facts = gl.getExtension("WEBGL_debug_renderer_info");
    return String(gl.getParameter(facts ? facts.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
  }

  private makeGrids(): { near: PlaneGeometry; away: PlaneGeometry } {
    const { near, away } = GRIDS[this.level]!;
    const grid = (segments: number) => new PlaneGeometry(WIDTH, LENGTH, segments, segments).rotateX(-Math.PI / 2);
    return { near: grid(near), away: grid(away) };
  }

  /** Take a coarser grid where frames come late; say so when there is none left. */
  private judge(nowMs: number): boolean {
    this.judged.frames += 1;
    if (this.judged.since === 0) this.judged = { since: nowMs, frames: 0 };
    const early = this.judged.frames < JUDGED_FRAMES && nowMs - this.judged.since < JUDGED_MS;
    if (early || this.judged.frames < 2) return true;
    const meanMs = (nowMs - this.judged.since) / this.judged.frames;
    this.judged = { since: nowMs, frames: 0 };
    // A hidden tab draws nothing for a while: that says nothing of the machine.
    if (meanMs < SLOW_MS || meanMs > JUDGED_MS) return true;
    if (this.level === GRIDS.length - 1) return meanMs < 3 * SLOW_MS;
    this.level += 1;
    this.grids.near.dispose();
    this.grids.away.dispose();
    this.grids = this.makeGrids();
    this.resize(this.size.width, this.size.height, this.size.pixelRatio);
    return true;
  }
}

/** A colour as the screen shows it: shaders here mix in the screen's own values, as a painter would. */
function flat(hex: string): Vector3 {
  return new Vector3(...[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255));
}

function vectors(ramp: Ramp): Vector3[] {
  return ramp.map((rgb) => new Vector3(...rgb));
}
