"""The fields of a RayJob (ray.io/v1, KubeRay 1.5 to 1.7) and of what stands in it, typed; an unknown one is an error.

From KubeRay's `rayjob_types.go` and `raycluster_types.go` and Kubernetes' core/v1, as far as manifests could use it.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[KMGTPE]i?)?$")]
Count = Annotated[int, Field(ge=0)]
Strings = dict[str, str]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: Name | None = None
    namespace: Name | None = None
    labels: Strings = {}
    annotations: Strings = {}


class Resources(Strict):
    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}


class KeySelector(Strict):
    name: Name
    key: str
    optional: bool = False


class EnvSource(Strict):
    secretKeyRef: KeySelector | None = None
    configMapKeyRef: KeySelector | None = None


class Env(Strict):
    name: str
    value: str | None = None
    valueFrom: EnvSource | None = None


class NameReference(Strict):
    name: Name
    optional: bool = False


class EnvFrom(Strict):
    prefix: str = ""
    secretRef: NameReference | None = None
    configMapRef: NameReference | None = None


class Capabilities(Strict):
    add: list[str] = []
    drop: list[str] = []


class ContainerSecurity(Strict):
    allowPrivilegeEscalation: bool | None = None
    capabilities: Capabilities | None = None
    privileged: bool | None = None
    readOnlyRootFilesystem: bool | None = None
    runAsNonRoot: bool | None = None
    runAsUser: int | None = None


class VolumeMount(Strict):
    name: Name
    mountPath: str
    subPath: str | None = None
    readOnly: bool = False


class ContainerPort(Strict):
    containerPort: int
    name: Name | None = None
    protocol: Literal["TCP", "UDP"] = "TCP"


class Container(Strict):
    name: Name
    image: str
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = None
    command: list[str] = []
    args: list[str] = []
    env: list[Env] = []
    envFrom: list[EnvFrom] = []
    ports: list[ContainerPort] = []
    resources: Resources | None = None
    securityContext: ContainerSecurity | None = None
    volumeMounts: list[VolumeMount] = []
    workingDir: str | None = None


class ClaimSource(Strict):
    claimName: Name
    readOnly: bool = False


class EmptyDirectory(Strict):
    medium: Literal["", "Memory"] = ""
    sizeLimit: Quantity | None = None


class SecretSource(Strict):
    secretName: Name
    defaultMode: int | None = None
    optional: bool = False


class ConfigMapSource(Strict):
    name: Name
    defaultMode: int | None = None


class Volume(Strict):
    name: Name
    persistentVolumeClaim: ClaimSource | None = None
    emptyDir: EmptyDirectory | None = None
    secret: SecretSource | None = None
    configMap: ConfigMapSource | None = None


class Toleration(Strict):
    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: int | None = None


class PodSecurity(Strict):
    runAsNonRoot: bool | None = None
    runAsUser: int | None = None
    runAsGroup: int | None = None
    fsGroup: int | None = None


class PodSpec(Strict):
    containers: Annotated[list[Container], Field(min_length=1)]
    initContainers: list[Container] = []
    volumes: list[Volume] = []
    nodeSelector: Strings = {}
    tolerations: list[Toleration] = []
    securityContext: PodSecurity | None = None
    serviceAccountName: Name | None = None
    automountServiceAccountToken: bool | None = None
    imagePullSecrets: list[NameReference] = []
    priorityClassName: Name | None = None
    restartPolicy: Literal["Always", "OnFailure", "Never"] | None = None
    terminationGracePeriodSeconds: Count | None = None


class PodTemplate(Strict):
    metadata: Metadata | None = None
    spec: PodSpec


class HeadGroup(Strict):
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"] | None = None
    enableIngress: bool | None = None
    rayStartParams: Strings = {}
    labels: Strings = {}
    template: PodTemplate


class WorkerGroup(Strict):
    groupName: Name
    replicas: Count | None = None
    minReplicas: Count
    maxReplicas: Count
    numOfHosts: Count = 1
    idleTimeoutSeconds: Count | None = None
    rayStartParams: Strings = {}
    labels: Strings = {}
    template: PodTemplate


class AuthOptions(Strict):
    mode: Literal["disabled", "token"]
    secretName: Name | None = None
    enableK8sTokenAuth: bool | None = None


class AutoscalerOptions(Strict):
    resources: Resources | None = None
    image: str | None = None
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = None
    env: list[Env] = []
    envFrom: list[EnvFrom] = []
    volumeMounts: list[VolumeMount] = []
    securityContext: ContainerSecurity | None = None
    idleTimeoutSeconds: Count | None = None
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    version: Literal["v1", "v2"] | None = None


class RayCluster(Strict):
    rayVersion: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    authOptions: AuthOptions | None = None
    enableInTreeAutoscaling: bool | None = None
    autoscalerOptions: AutoscalerOptions | None = None
    headServiceAnnotations: Strings = {}
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] = []
    suspend: bool | None = None


class SubmitterConfig(Strict):
    backoffLimit: Count | None = None


class RayJobSpec(Strict):
    entrypoint: str
    runtimeEnvYAML: str | None = None
    metadata: Strings = {}
    jobId: str | None = None
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] = "K8sJobMode"
    submitterConfig: SubmitterConfig | None = None
    submitterPodTemplate: PodTemplate | None = None
    entrypointNumCpus: float | None = None
    entrypointNumGpus: float | None = None
    entrypointResources: str | None = None
    backoffLimit: Count = 0
    activeDeadlineSeconds: Annotated[int, Field(gt=0)] | None = None
    shutdownAfterJobFinishes: bool = False
    ttlSecondsAfterFinished: Count = 0
    suspend: bool = False
    managedBy: str | None = None
    clusterSelector: Strings = {}
    rayClusterSpec: RayCluster


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


class ClaimSpec(Strict):
    accessModes: list[Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]]
    storageClassName: Name | None = None
    volumeMode: Literal["Filesystem", "Block"] | None = None
    volumeName: Name | None = None
    resources: Resources


class Claim(Strict):
    apiVersion: Literal["v1"]
    kind: Literal["PersistentVolumeClaim"]
    metadata: Metadata
    spec: ClaimSpec


KINDS: dict[str, type[RayJob] | type[Claim]] = {"RayJob": RayJob, "PersistentVolumeClaim": Claim}
